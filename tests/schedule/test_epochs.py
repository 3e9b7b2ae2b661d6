"""Even draws by epochs: each prompt once before any twice, whatever happens between."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.plan import GroupOutcome, TaskSpec, UpdateStats
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.prompts import Draw, PromptBook
from astor_rl.schedule.quota import ScheduleOptions


def keys(size: int) -> list[str]:
    return [f"k{i}" for i in range(size)]


def book(size: int) -> PromptBook:
    return PromptBook("t", keys(size), PromptOptions())


def epoch(prompts: PromptBook, rng: np.random.Generator, count: int, **more: bool) -> Draw:
    """Draw by epochs, and release."""
    draw = prompts.draw(count, revision=0, rng=rng, rule="epochs", **more)
    for row in draw.rows:
        prompts.release(row)
    return draw


def test_epochs_take_every_prompt_once_before_any_twice() -> None:
    """Ten prompts in threes: the fourth draw takes what is left and begins the next epoch."""
    rng, prompts, counts = np.random.default_rng(0), book(10), Counter[str]()
    for step in range(1, 41):
        draw = epoch(prompts, rng, 3)
        assert len(set(draw.keys)) == 3
        counts.update(draw.keys)
        assert max(counts.values()) - min(counts[key] for key in keys(10)) <= 1
        assert prompts.seen == min(10, 3 * step)
    assert set(counts.values()) == {12}


def test_epochs_say_what_chance_a_prompt_had() -> None:
    rng, prompts = np.random.default_rng(0), book(10)
    assert epoch(prompts, rng, 8).propensities == (0.8,) * 8
    # Two prompts that nobody drew, and four of the eight that were drawn once.
    assert sorted(epoch(prompts, rng, 6).propensities) == [0.5] * 4 + [1.0] * 2
    assert epoch(prompts, rng, 6).propensities == (1.0,) * 6


def test_epochs_go_on_without_what_other_plans_hold() -> None:
    """What was held for twenty epochs is due in this one, and not for those that it missed."""
    rng, prompts = np.random.default_rng(0), book(10)
    held = prompts.draw(2, revision=0, rng=rng, rule="epochs")
    for _ in range(40):
        assert not set(epoch(prompts, rng, 4).keys) & set(held.keys)
    for row in held.rows:
        prompts.release(row)
    first = set(epoch(prompts, rng, 4).keys)
    assert first > set(held.keys)
    coming = [key for _ in range(2) for key in epoch(prompts, rng, 4).keys]
    assert sorted([*(first - set(held.keys)), *coming]) == sorted(keys(10))


def test_what_a_forgotten_plan_held_is_still_due() -> None:
    rng, prompts = np.random.default_rng(0), book(12)
    lost = prompts.draw(4, revision=0, rng=rng, rule="epochs")
    for row in lost.rows:
        prompts.release(row, used=False)
    drawn = [key for _ in range(3) for key in epoch(prompts, rng, 4).keys]
    assert sorted(drawn) == sorted(keys(12))


def test_new_prompts_are_due_once_whatever_the_others_had() -> None:
    rng, prompts = np.random.default_rng(0), book(20)
    for _ in range(20):
        epoch(prompts, rng, 10)
    new = [f"new{i}" for i in range(10)]
    grown = PromptBook("t", [*keys(20), *new], PromptOptions())
    grown.load_state_dict(prompts.state_dict(), on_change="adapt")
    assert sorted(epoch(grown, rng, 10).keys) == new
    for _ in range(3):
        drawn = [key for _ in range(3) for key in epoch(grown, rng, 10).keys]
        assert sorted(drawn) == sorted([*keys(20), *new])


def test_other_rules_draw_for_the_epoch_too() -> None:
    """However often a prompt was drawn by utility: in the epoch that comes, each is drawn once."""
    rng, prompts = np.random.default_rng(0), book(20)
    for count in [20, *[2] * 50]:
        draw = prompts.draw(count, revision=0, rng=rng)
        for key, row in zip(draw.keys, draw.rows, strict=True):
            prompts.observe(row, 0, [0.0, 1.0] if key in {"k1", "k2"} else [0.0, 0.0])
            prompts.release(row)
    assert sorted(epoch(prompts, rng, 20).keys) == sorted(keys(20))


def test_a_state_from_before_epochs_counts_as_one() -> None:
    rng, prompts, other = np.random.default_rng(0), book(8), book(8)
    first = epoch(prompts, rng, 5)
    state = prompts.state_dict()
    del state["epoch"], state["columns"]["epoch"]
    other.load_state_dict(state)
    assert set(epoch(other, rng, 3).keys) == set(keys(8)) - set(first.keys)


def test_epochs_go_on_after_a_load_and_repeat_where_they_may() -> None:
    rng, prompts, other = np.random.default_rng(0), book(7), book(7)
    first = epoch(prompts, rng, 5)
    other.load_state_dict(prompts.state_dict())
    assert set(keys(7)) - set(first.keys) < set(epoch(other, np.random.default_rng(3), 3).keys)
    repeated = epoch(prompts, rng, 16, allow_repeats=True)
    assert set(Counter(first.keys + repeated.keys).values()) == {3}


def test_prompts_of_an_epoch_are_equally_likely() -> None:
    rng, counts = np.random.default_rng(4), Counter[str]()
    for _ in range(5000):
        prompts = book(5)
        epoch(prompts, rng, 3)
        counts.update(epoch(prompts, rng, 3).keys)
    assert all(abs(count - 3000) < 4 * math.sqrt(5000 * 0.24) for count in counts.values())


def test_what_a_forgotten_plan_did_not_use_is_drawn_in_the_same_epoch() -> None:
    """Twelve prompts in fours: of the plan that is given up, one prompt was used."""
    options = CoordinatorOptions(schedule=ScheduleOptions(prompt_scheduling=False))
    tasks = [TaskSpec("t", keys(12))]
    each = Coordinator(tasks, prompts_per_step=4, options=options)
    lost = each.plan(revision=0)
    each.observe_groups(lost.id, [GroupOutcome(0, (0.0, 1.0), tokens=10)])
    each.forget(lost.id)
    drawn = [lost.items[0].key]
    for revision in (1, 2, 3):
        plan = each.plan(revision=revision)
        drawn += [item.key for item in plan.items]
        each.observe_groups(
            plan.id, [GroupOutcome(item.slot, (0.0, 1.0), tokens=10) for item in plan.items]
        )
        each.observe_update(plan.id, revision, UpdateStats())
    assert sorted(drawn[:12]) == sorted(keys(12))
