"""Dynamic sampling: what is refused, what is asked for instead, and when it ends."""

from __future__ import annotations

from collections import Counter

import pytest

from astor_rl.coordinator import Coordinator
from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.errors import ConfigError
from astor_rl.plan import GroupOutcome, StepPlan, TaskSpec
from astor_rl.schedule.baselines.options import MAX_ROUNDS, BaselineOptions
from astor_rl.schedule.quota import ScheduleOptions


def report(each, plan: StepPlan, mixed: set[str]) -> None:
    """Tasks in `mixed` have one right answer of four, the others none."""
    each.coordinator.observe_groups(
        plan.id,
        [GroupOutcome(i.slot, (float(i.task in mixed), 0.0, 0.0, 0.0)) for i in plan.items],
    )


def test_a_refill_asks_for_what_each_task_lacks(world):
    """MT-GRPO, 8 prompts of 2 tasks: 4 of a are kept, 4 of b refused; the refill has 4 good b."""
    each = world("mt_grpo", names="ab")
    plan = each.coordinator.plan(revision=0)
    assert each.coordinator.shortfall([plan.id]) == {}  # nothing is refused before it is seen
    report(each, plan, {"a"})
    need = each.coordinator.shortfall([plan.id])
    assert need == {"b": 4}
    kept = each.coordinator.accepted(plan.id)
    assert {plan.items[slot].task for slot in kept} == {"a"}

    refill = each.coordinator.plan(revision=0, need=need)
    assert not {item.key for item in refill.items} & {item.key for item in plan.items}
    report(each, refill, {"b"})
    assert each.coordinator.shortfall([plan.id, refill.id]) == {}
    assert each.coordinator.accepted(refill.id) == (0, 1, 2, 3)


@pytest.mark.parametrize("method", ["dapo", "greso"])
def test_the_batch_is_one_count(world, method):
    """8 prompts of 4 tasks, those of a kept: of 6 more, all 14 being 3.5 each, 2 2 1 1. Then of a
    and b: 2 + 2 + 2 of 8 lack 2, and c and d have had the fewest.
    """
    each = world(method, names="abcd")
    plan = each.coordinator.plan(revision=0)
    report(each, plan, {"a"})
    need = each.coordinator.shortfall([plan.id])
    assert need == {"a": 2, "b": 2, "c": 1, "d": 1}
    refill = each.coordinator.plan(revision=0, need=need)
    report(each, refill, {"a", "b"})
    assert each.coordinator.shortfall([plan.id, refill.id]) == {"c": 1, "d": 1}


def test_a_task_that_never_varies_does_not_take_the_budget(world):
    """Half of all that is sampled is b's, and no more, in all of ten rounds."""
    each = world("dapo", names="ab", size=100)
    plans = [each.coordinator.plan(revision=0)]
    report(each, plans[0], {"a"})
    while need := each.coordinator.shortfall([plan.id for plan in plans]):
        plans.append(each.coordinator.plan(revision=0, need=need))
        report(each, plans[-1], {"a"})
    kept = [len(each.coordinator.accepted(plan.id)) for plan in plans]
    sampled = Counter(item.task for plan in plans for item in plan.items)
    assert sum(kept) == 8
    assert sampled["b"] <= sampled["a"] <= 8


@pytest.mark.parametrize("size", [0, 5])
def test_a_task_that_runs_dry_leaves_the_others_their_shares(size):
    """Ratios 6, 3, 1; all is refused, the largest has hardly a prompt: the rest is 3 to 1."""
    coordinator = Coordinator(
        [
            TaskSpec("dry", [f"d{n}" for n in range(size)], ratio=6),
            TaskSpec("large", [f"l{n}" for n in range(200)], ratio=3),
            TaskSpec("small", [f"s{n}" for n in range(200)], ratio=1),
        ],
        prompts_per_step=8,
        options=CoordinatorOptions(schedule=ScheduleOptions(method="dapo")),
        refills=True,
    )
    plans = [coordinator.plan(revision=0)]
    for _ in range(11):
        groups = [GroupOutcome(item.slot, (0.0, 0.0)) for item in plans[-1].items]
        coordinator.observe_groups(plans[-1].id, groups)
        if need := coordinator.shortfall([plan.id for plan in plans]):
            plans.append(coordinator.plan(revision=0, need=need))
    sampled = Counter(item.task for plan in plans for item in plan.items)
    assert sampled["dry"] == size
    assert sampled["large"] == pytest.approx(3 * sampled["small"], abs=4)
    assert sampled.total() == 88


def test_groups_without_a_verdict_are_replaced_too(world):
    each = world("dapo", names="ab")
    plan = each.coordinator.plan(revision=0)
    groups = [GroupOutcome(item.slot, (), invalid=8) for item in plan.items]
    each.coordinator.observe_groups(plan.id, groups)
    assert sum(each.coordinator.shortfall([plan.id]).values()) == 8


def test_rounds_end_and_so_do_prompts(world):
    each = world("dapo", names="ab", max_rounds=2, size=11)
    plans = [each.coordinator.plan(revision=0)]
    report(each, plans[0], set())
    while need := each.coordinator.shortfall([plan.id for plan in plans]):
        plans.append(each.coordinator.plan(revision=0, need=need))
        report(each, plans[-1], set())
    # 8 of 22, then 8 more; the third plan finds 3 + 3 free, and rounds are used up.
    assert [Counter(i.task for i in plan.items) for plan in plans] == [
        {"a": 4, "b": 4},
        {"a": 4, "b": 4},
        {"a": 3, "b": 3},
    ]


@pytest.mark.parametrize("method", ["dapo", "greso", "mt_grpo"])
def test_where_repeats_are_allowed_refills_repeat(method):
    """8 of 8 prompts are in flight and refused: the refill samples them again."""
    coordinator = Coordinator(
        [TaskSpec("a", [str(place) for place in range(8)])],
        prompts_per_step=8,
        options=CoordinatorOptions(schedule=ScheduleOptions(method=method, allow_repeats=True)),
        refills=True,
    )
    plan = coordinator.plan(revision=0)
    coordinator.observe_groups(plan.id, [GroupOutcome(i.slot, (0.0, 0.0)) for i in plan.items])
    need = coordinator.shortfall([plan.id])
    assert need == {"a": 8}
    refill = coordinator.plan(revision=0, need=need)
    assert sorted(i.key for i in refill.items) == sorted(i.key for i in plan.items)


def test_as_many_rounds_as_may_be_asked_for_fit_in_flight(world):
    each = world("dapo", names="a", size=8 * (MAX_ROUNDS + 2), max_rounds=MAX_ROUNDS)
    plans = [each.coordinator.plan(revision=0)]
    report(each, plans[0], set())
    while need := each.coordinator.shortfall([plan.id for plan in plans]):
        plans.append(each.coordinator.plan(revision=0, need=need))
        report(each, plans[-1], set())
    assert len(plans) == 1 + MAX_ROUNDS
    with pytest.raises(ConfigError, match="max_rounds is 256; it must be at most 255"):
        BaselineOptions(max_rounds=MAX_ROUNDS + 1)


@pytest.mark.parametrize("method", ["astor", "uniform", "sec", "mopps"])
def test_others_refuse_nothing(world, method):
    each = world(method, names="ab")
    plan = each.coordinator.plan(revision=0)
    report(each, plan, set())
    assert each.coordinator.accepted(plan.id) == tuple(range(8))
    assert each.coordinator.shortfall([plan.id]) == {}
