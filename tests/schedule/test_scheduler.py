"""Warm-up, stages of a share, availability, token costs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from astor_rl.errors import PlanError
from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.options import Method
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.schedule.scheduler import Scheduler
from astor_rl.utility.task_utility import TaskUtility, UtilitySnapshot


def scheduler(options: ScheduleOptions | None = None, **sizes: int) -> Scheduler:
    sizes = sizes or {"a": 50, "b": 50}
    specs = [TaskSpec(name, [f"{name}{i}" for i in range(size)]) for name, size in sizes.items()]
    return Scheduler(specs, options or ScheduleOptions(), PromptOptions(), cost_half_life=8.0)


def snapshot(**utility: tuple[float, float]) -> UtilitySnapshot:
    """Tasks by (potential, utility), without errors."""
    return UtilitySnapshot(
        0,
        {
            name: TaskUtility(both, 0.0, potential, 0.0, None, None, 0.0, 9, 0, None)
            for name, (potential, both) in utility.items()
        },
    )


UNEVEN = snapshot(a=(0.1, 0.2), b=(0.6, 0.5))


def test_warm_up_ends_when_every_task_with_prompts_is_measured() -> None:
    each = scheduler(a=5, b=5, empty=0)
    each.advance(3, {"a": 8, "b": 7, "empty": 0})
    assert each.phase == "warmup"
    each.advance(4, {"a": 8, "b": 8, "empty": 0})
    assert each.phase == "scheduled"
    each.advance(5, {"a": 0, "b": 0, "empty": 0})
    assert each.phase == "scheduled"


def test_warm_up_lasts_at_most_its_steps_from_the_first_revision() -> None:
    each = scheduler(ScheduleOptions(warmup_steps=10))
    none = {"a": 0, "b": 0}
    each.advance(100, none)
    each.advance(109, none)
    assert each.phase == "warmup"
    each.advance(110, none)
    assert each.phase == "scheduled"


@pytest.mark.parametrize("off", ["warmup", "task_scheduling"])
def test_base_mixture_rules_in_warm_up_and_without_task_scheduling(off: str) -> None:
    each = scheduler(ScheduleOptions(task_scheduling=off == "warmup", warmup_steps=0))
    if off != "warmup":
        each.advance(0, {"a": 9, "b": 9})
    stages = each.stages(UNEVEN)
    for stage in (stages.potential, stages.synergy, stages.cost, stages.floor):
        np.testing.assert_array_equal(stage, [0.5, 0.5])


def test_stages_switch_on_one_after_another() -> None:
    each = scheduler(ScheduleOptions(warmup_steps=0, tau=0.5, mix=0.2, cost_aware=True))
    each.advance(0, {"a": 9, "b": 9})
    each.observe("a", -1, 0, [0.0, 1.0], tokens=100)
    each.observe("b", -1, 0, [0.0, 1.0], tokens=300)
    stages = each.stages(UNEVEN)
    odds = [np.exp((0.6 - 0.1) / 0.5), np.exp((0.5 - 0.2) / 0.5), np.exp(0.3 / 0.5) / 3]
    for stage, odd in zip((stages.potential, stages.synergy, stages.cost), odds, strict=True):
        assert stage[1] / stage[0] == pytest.approx(odd)
    np.testing.assert_allclose(stages.floor, 0.8 * stages.cost + 0.1)


def test_tokens_age_and_unknown_costs_are_the_mean() -> None:
    each = scheduler(a=5, b=5)
    assert each.tokens_per_prompt("a") is None
    np.testing.assert_array_equal(each._costs(), [1.0, 1.0])
    each.observe("a", -1, 0, [], tokens=100)
    each.observe("a", -1, 8, [], tokens=400)
    assert each.tokens_per_prompt("a") == pytest.approx((0.5 * 100 + 400) / 1.5)
    each.observe("a", -1, 0, [], tokens=100)  # late: weighs what it would have
    assert each.tokens_per_prompt("a") == pytest.approx((2 * 0.5 * 100 + 400) / 2)
    each.observe("b", -1, 8, [], tokens=0)  # not reported is not free
    assert each._costs()[1] == each._costs()[0]


def test_availability_caps_and_restores() -> None:
    each = scheduler(ScheduleOptions(warmup_steps=0), a=50, b=3)
    each.advance(0, {"a": 9, "b": 9})
    quotas = each.quotas(UNEVEN, 10, None)
    assert quotas.prompts.tolist() == [7, 3]
    assert quotas.rounded[1] > quotas.share[1]
    quotas = each.quotas(UNEVEN, 10, {"a": 9, "b": 1})
    assert quotas.prompts.tolist() == [9, 1]
    with pytest.raises(PlanError, match="10 prompts are wanted and 5 are available"):
        each.quotas(UNEVEN, 10, {"a": 3, "b": 2})


def test_quotas_tell_what_was_wanted_before_rounding_and_before_the_cap() -> None:
    """Of 5 prompts half each is 2.5; a tie goes to the earlier task, and b has one prompt."""
    each = scheduler(a=50, b=1)
    quotas = each.quotas(UNEVEN, 5, None)
    assert quotas.wanted.tolist() == [2.5, 2.5]
    assert quotas.rounded.tolist() == [0.6, 0.4]
    assert (quotas.prompts.tolist(), quotas.share.tolist()) == ([4, 1], [0.8, 0.2])


def test_repeats_lift_caps_but_an_empty_task_stays_empty() -> None:
    options = ScheduleOptions(warmup_steps=0, allow_repeats=True)
    each = scheduler(options, a=2, b=0)
    each.advance(0, {"a": 9, "b": 0})
    assert each.quotas(UNEVEN, 10, None).prompts.tolist() == [10, 0]
    each = scheduler(options, a=2, b=2)
    assert each.quotas(UNEVEN, 10, {"a": 0}).prompts.tolist() == [0, 10]


def test_need_beyond_supply_is_named() -> None:
    each = scheduler(a=5, b=5)
    each.check_supply({"a": 5}, None)
    with pytest.raises(PlanError, match="task a: 6 prompts are needed and 5 of 5 are available"):
        each.check_supply({"a": 6}, None)
    with pytest.raises(PlanError, match="task b: 3 prompts are needed and 2 of 5 are available"):
        each.check_supply({"b": 3}, {"b": 2})


def test_a_group_whose_prompt_is_gone_is_no_other_prompts_evidence() -> None:
    """Row -1 says that it is gone; as an index it would be the last prompt that was drawn."""
    each = scheduler(ScheduleOptions(method="mopps"), a=16)
    each.draw("a", 16, revision=0, rng=np.random.default_rng(0))
    each.observe("a", -1, 0, [1.0, 1.0], tokens=0)
    each.stages(snapshot(a=(0.1, 0.2)))  # the arm learns
    assert each.arm is not None
    assert each.arm.terms("a") == {"known_prompts": 0.0}


@pytest.mark.parametrize("method", ["astor", "uniform"])
@pytest.mark.parametrize("epochs", [True, False])
def test_even_draws_go_by_epochs_unless_told_otherwise(method: Method, epochs: bool) -> None:
    """Twelve draws of two of eight prompts: three epochs, or by chance (all equal: 1 in 10,000)."""
    options = ScheduleOptions(method=method, prompt_scheduling=False, epochs=epochs)
    each, rng, counts = scheduler(options, a=8), np.random.default_rng(0), Counter[str]()
    for _ in range(12):
        draw = each.draw("a", 2, revision=0, rng=rng)
        counts.update(draw.keys)
        for row in draw.rows:
            each.book("a").release(row)
    assert (set(counts.values()) == {3}) == epochs
