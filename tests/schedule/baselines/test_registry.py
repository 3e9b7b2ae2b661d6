"""What must hold for every arm: quotas, supply, exact resumption, receipts that add up."""

from __future__ import annotations

import functools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from astor_rl.coordinator import Coordinator
from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.errors import CapabilityError, ConfigError, PlanError, StateError
from astor_rl.plan import StepPlan, TaskSpec, UpdateStats
from astor_rl.schedule.baselines.options import METHODS, BaselineOptions
from astor_rl.schedule.baselines.registry import ARMS, FILTERING, make_arm
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.synergy import SynergyOptions

methods = pytest.mark.parametrize("method", METHODS)


def through_json(value: Any) -> Any:
    """What a checkpoint does: arrays aside, JSON for the rest."""
    if isinstance(value, dict):
        return {key: through_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value.copy()
    return json.loads(json.dumps(value, allow_nan=False))


def test_every_method_but_astor_has_an_arm():
    assert {"astor", *ARMS} == set(METHODS)
    assert make_arm("astor", [], BaselineOptions()) is None
    assert {"dapo", "greso", "mt_grpo", "vcrl"} == FILTERING


@methods
def test_quotas_sum_to_the_batch_and_receipts_add_up(world, method):
    each = world(method)
    for revision in range(14):
        plan = each.step(revision)[0]
        assert len(plan.items) == 8
        assert len({(item.task, item.key) for item in plan.items}) == 8
        drawn = Counter(item.task for item in plan.items)
        for name, task in plan.receipt.tasks.items():
            parts = task.base + task.method + task.potential + task.synergy + task.cost
            parts += task.floor + task.rounding + task.availability
            assert parts == pytest.approx(task.share, abs=1e-12)
            assert task.prompts == drawn[name]
            assert all(np.isfinite(value) for value in task.terms.values())


@methods
def test_an_arm_explains_itself_in_its_own_terms(world, method):
    receipt = [world(method).step(revision) for revision in range(3)][-1][0].receipt
    notes = [note for note in receipt.notes if note.startswith(f"{method}: ")]
    assert len(notes) == (method != "astor")
    if method != "astor":
        assert receipt.phase == "scheduled"
        assert not any("never measured" in note for note in receipt.notes)


@methods
@pytest.mark.parametrize("half", [1, 6])
def test_t_plus_kill_plus_t_is_2t(world, method, half):
    straight = world(method)
    plans = [straight.step(revision) for revision in range(12)]
    first = world(method)
    early = [first.step(revision) for revision in range(half)]
    second = world(method, seed=99)
    second.coordinator.load_state_dict(through_json(first.coordinator.state_dict()))
    late = [second.step(revision) for revision in range(half, 12)]
    assert early + late == plans


@methods
def test_killed_between_a_batch_and_its_refill(world, method):
    """The refused groups, the round and the draws that follow are part of the state."""
    straight, killed = world(method), world(method)
    for each in (straight, killed):
        for revision in range(3):
            each.step(revision)
        plan = each.coordinator.plan(revision=3)
        each.coordinator.observe_groups(plan.id, each.groups(plan))
    resumed = world(method, seed=5)
    resumed.coordinator.load_state_dict(through_json(killed.coordinator.state_dict()))
    need = straight.coordinator.shortfall([plan.id])
    assert resumed.coordinator.shortfall([plan.id]) == need
    assert bool(need) == (method in FILTERING)
    assert resumed.coordinator.accepted(plan.id) == straight.coordinator.accepted(plan.id)
    if need:
        again = [each.coordinator.plan(revision=3, need=need) for each in (straight, resumed)]
        assert again[0] == again[1]


class Lagging:
    """An engine one plan behind and half a batch short: groups come late and in parts."""

    def __init__(self, world: Any) -> None:
        self.world, self.coordinator = world, world.coordinator

    def step(self, revision: int) -> StepPlan:
        each = self.coordinator
        plan = each.plan(revision=revision)
        each.observe_groups(plan.id, self.world.groups(plan)[:3])
        for old in [old for old in each.in_flight.values() if old.id < plan.id]:
            each.observe_groups(old.id, self.world.groups(old)[:2:-1])
            each.observe_update(old.id, revision, UpdateStats())
        return plan


@methods
@pytest.mark.parametrize("half", [1, 5, 9])
def test_an_engine_that_lags_resumes_exactly(world, method, half):
    straight = Lagging(world(method))
    plans = [straight.step(revision) for revision in range(11)]
    first = Lagging(world(method))
    early = [first.step(revision) for revision in range(half)]
    assert first.coordinator.in_flight
    second = Lagging(world(method, seed=3))
    second.coordinator.load_state_dict(through_json(first.coordinator.state_dict()))
    assert second.coordinator.metrics() == first.coordinator.metrics()
    assert early + [second.step(revision) for revision in range(half, 11)] == plans


@methods
def test_one_task(world, method):
    each = world(method, names="b")
    for revision in range(6):
        assert {item.task for item in each.step(revision)[0].items} == {"b"}


@methods
def test_a_task_without_supply_gets_nothing(world, method):
    each = world(method)
    for revision in range(4):
        plan = each.step(revision, available={"b": 0})[0]
        assert len(plan.items) == 8
        assert "b" not in {item.task for item in plan.items}


@methods
def test_need_is_obeyed_and_free_prompts_run_out(world, method):
    coordinator = world(method, size=9).coordinator
    plan = coordinator.plan(revision=0, need={"a": 7, "c": 2})
    assert Counter(item.task for item in plan.items) == {"a": 7, "c": 2}
    with pytest.raises(PlanError, match="task a"):
        coordinator.plan(revision=0, need={"a": 3})


@methods
def test_repeats_where_they_are_allowed(method):
    coordinator = Coordinator(
        [TaskSpec("a", ["x", "y", "z"], difficulty=[0.0, 0.5, 1.0])],
        prompts_per_step=7,
        options=CoordinatorOptions(
            schedule=ScheduleOptions(method=method, allow_repeats=True),
            baseline=BaselineOptions(horizon=4, task="a"),
        ),
        refills=True,
    )
    drawn = Counter(item.key for item in coordinator.plan(revision=0).items)
    assert sum(drawn.values()) == 7
    assert set(drawn) == {"x", "y", "z"}


@methods
def test_the_order_of_arrival_leaves_no_trace(world, method):
    plain, shuffled = world(method), world(method)
    for revision in range(5):
        plans = [each.coordinator.plan(revision=revision) for each in (plain, shuffled)]
        assert plans[0] == plans[1]
        groups = plain.groups(plans[0])
        plain.coordinator.observe_groups(plans[0].id, groups)
        for group in reversed(groups):
            shuffled.coordinator.observe_groups(plans[0].id, [group])


@methods
def test_tasks_and_prompts_may_change_between_sessions(world, method):
    old = world(method, names="ab")
    for revision in range(3):
        old.step(revision)
    new = world(method, names="ac", size=30)
    with pytest.raises(StateError):
        new.coordinator.load_state_dict(old.coordinator.state_dict())
    new.coordinator.load_state_dict(old.coordinator.state_dict(), on_task_change="adapt")
    for revision in range(3, 6):
        assert len(new.step(revision)[0].items) == 8


@methods
def test_a_task_can_be_added(world, method):
    each = world(method, names="ab")
    each.step(0)
    each.coordinator.add_task(TaskSpec("c", [f"c{i}" for i in range(40)], difficulty=[0.5] * 40))
    for revision in range(1, 4):
        assert len(each.step(revision)[0].items) == 8


def test_a_state_is_of_its_method(world):
    """Told as a config spells it."""
    for theirs, mine in (("sec", "dump"), ("sec", "astor"), ("astor", "sec")):
        said = f"schedule.method is '{mine}' and the saved state is of '{theirs}'"
        with pytest.raises(StateError, match=said):
            world(mine).coordinator.load_state_dict(world(theirs).coordinator.state_dict())


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("single", {"task": "z"}, "baseline.task is 'z'"),
        ("sequential", {"order": ("a",)}, "must name each of a, b once"),
        ("curriculum", {"order": ("a", "z")}, "must name each of a, b once"),
        ("e2h", {"horizon": None}, "baseline.horizon is unset"),
    ],
)
def test_options_that_do_not_fit(bench, method, options, says):
    with pytest.raises(ConfigError, match=says):
        bench(method, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"order": ("a", "a")},
        {"horizon": 0},
        {"sec_rate": 1.5},
        {"e2h_sigma": 0.0},
        {"max_rounds": -1},
        {"e2h_schedule": "linear"},
        {"tac_weight": -1.0},
        {"dump_window": 0},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=f"baseline.{next(iter(options))}"):
        BaselineOptions(**options)


@methods
def test_only_astor_calibrates_unless_asked(method):
    options = CoordinatorOptions(schedule=ScheduleOptions(method=method)).in_effect()
    assert options.calibrate.enabled == (method == "astor")
    assert options.synergy.enabled == (method in {"astor", "tac"})
    kept = CoordinatorOptions(
        schedule=ScheduleOptions(method=method), baseline=BaselineOptions(calibrate=True)
    )
    assert kept.in_effect() == kept


@methods
def test_an_engine_that_does_not_refill_is_told_at_once(method):
    options = CoordinatorOptions(
        schedule=ScheduleOptions(method=method), baseline=BaselineOptions(horizon=4, task="a")
    )
    build = functools.partial(Coordinator, [TaskSpec("a", ["x"])], prompts_per_step=1)
    if method in FILTERING:
        with pytest.raises(CapabilityError, match=f"'{method}', which replaces groups"):
            build(options=options)
    else:
        build(options=options)


def test_tac_needs_synergy():
    options = CoordinatorOptions(
        schedule=ScheduleOptions(method="tac"), synergy=SynergyOptions(enabled=False)
    )
    with pytest.raises(ConfigError, match="'tac' needs it"):
        options.in_effect()
