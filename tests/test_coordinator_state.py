"""Saving and loading the coordinator: exact, strict, and through changes of tasks."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from astor_rl.calibrate.kl import CalibrateOptions
from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.errors import StateError
from astor_rl.plan import GradientProbe, GroupOutcome, StepPlan, TaskSpec, UpdateStats
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.potential import PotentialOptions
from astor_rl.utility.synergy import SynergyOptions

RATES = {"code": 0.5, "commit": 0.9, "io": 0.1, "tests": 0.02}
ALL = CoordinatorOptions(
    potential=PotentialOptions(scale="task_rms"),
    schedule=ScheduleOptions(cost_aware=True, warmup_steps=4),
    calibrate=CalibrateOptions(mode="target"),
)


def build(
    names: str = "code commit io tests",
    *,
    seed: int = 0,
    size: int = 60,
    options: CoordinatorOptions | None = None,
) -> Coordinator:
    tasks = [TaskSpec(name, [f"{name}-{i}" for i in range(size)]) for name in names.split()]
    often = CoordinatorOptions(synergy=SynergyOptions(every=4))
    return Coordinator(tasks, prompts_per_step=16, options=options or often, seed=seed)


def rewards(plan: StepPlan) -> list[GroupOutcome]:
    rng = np.random.default_rng([3, plan.id])
    return [
        GroupOutcome(
            item.slot, tuple((rng.random(8) < RATES[item.task]).astype(float).tolist()), 0, 90
        )
        for item in plan.items
    ]


def stats(plan: StepPlan, names: list[str]) -> UpdateStats:
    rng = np.random.default_rng([5, plan.id])
    halves = rng.normal(size=(2 * len(names), 300)) + 1
    probe = GradientProbe(tuple(names), halves @ halves.T, (2,) * len(halves))
    kl = dict.fromkeys(names, 0.01 * (1 + plan.id % 3))
    return UpdateStats(kl=kl, probe=probe if plan.probe else None)


class Lagging:
    """An engine that is always one plan behind and half a batch short: never an empty table."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    def step(self, revision: int) -> StepPlan:
        each = self.coordinator
        plan = each.plan(revision=revision)
        each.observe_groups(plan.id, rewards(plan)[:9])
        for old in [p for p in each.in_flight.values() if p.id < plan.id]:
            each.observe_update(old.id, revision, stats(old, list(each.snapshot.tasks)))
            each.observe_groups(old.id, rewards(old)[9:])
        return plan


def plain(value: Any) -> Any:
    """Compare-by-value form of a state: arrays with their type and every bit of their content."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def through_json(value: Any) -> Any:
    """What a checkpoint does: arrays aside, JSON for the rest."""
    if isinstance(value, dict):
        return {key: through_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value.copy()
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("options", [None, ALL])
@pytest.mark.parametrize("half", [1, 7, 14])
def test_t_plus_save_load_plus_t_is_2t(half: int, options: CoordinatorOptions | None) -> None:
    straight = Lagging(build(options=options))
    plans = [straight.step(revision) for revision in range(30)]

    first = Lagging(build(options=options))
    early = [first.step(revision) for revision in range(half)]
    assert first.coordinator.in_flight
    state = through_json(first.coordinator.state_dict())
    second = Lagging(build(options=options, seed=99))
    second.coordinator.load_state_dict(state)
    assert second.coordinator.in_flight == first.coordinator.in_flight
    assert second.coordinator.metrics() == first.coordinator.metrics()
    assert second.coordinator.snapshot == first.coordinator.snapshot
    assert plain(second.coordinator.state_dict()) == plain(first.coordinator.state_dict())
    late = [second.step(revision) for revision in range(half, 30)]

    assert early + late == plans
    assert plain(second.coordinator.state_dict()) == plain(straight.coordinator.state_dict())


def test_resuming_is_exact_after_a_task_was_added() -> None:
    def started() -> Lagging:
        engine = Lagging(build("io tests"))
        for revision in range(8):
            engine.step(revision)
        engine.coordinator.add_task(TaskSpec("code", [f"code-{i}" for i in range(60)]))
        for revision in range(8, 20):
            engine.step(revision)
        return engine

    straight, saved = started(), started()
    resumed = Lagging(build("code io tests"))
    resumed.coordinator.load_state_dict(saved.coordinator.state_dict())
    for revision in range(20, 35):
        assert resumed.step(revision) == straight.step(revision)


def test_a_state_does_not_change_after_it_was_taken() -> None:
    engine = Lagging(build())
    for revision in range(6):
        engine.step(revision)
    state = engine.coordinator.state_dict()
    before = plain(copy.deepcopy(state))
    for revision in range(6, 12):
        engine.step(revision)
    assert plain(state) == before
    other = build()
    other.load_state_dict(state)
    Lagging(other).step(6)
    assert plain(state) == before


def test_other_settings_may_follow() -> None:
    """Ratios, betas, G and options belong to the run that goes on, not to the state."""
    engine = Lagging(build())
    for revision in range(6):
        engine.step(revision)
    tasks = [
        TaskSpec(n, [f"{n}-{i}" for i in range(60)], beta=0.5, num_generations=4) for n in RATES
    ]
    other = Coordinator(tasks, prompts_per_step=8)
    other.load_state_dict(engine.coordinator.state_dict())
    plan = other.plan(revision=6)
    assert len(plan.items) == 8
    assert {
        (item.num_generations, task.beta_base)
        for item in plan.items
        for task in plan.receipt.tasks.values()
    } == {(4, 0.5)}


@pytest.mark.parametrize("names", ["code commit io", "code commit io tests zzz"])
def test_changed_tasks_are_an_error_and_leave_everything(names: str) -> None:
    engine = Lagging(build())
    engine.step(0)
    other = build(names)
    before = plain(other.state_dict())
    with pytest.raises(StateError, match=r"tasks changed .* on_task_change='adapt'"):
        other.load_state_dict(engine.coordinator.state_dict())
    assert plain(other.state_dict()) == before


def test_adapting_to_added_and_dropped_tasks() -> None:
    engine = Lagging(build("code io tests"))
    for revision in range(20):
        engine.step(revision)
    other = build("code commit io")
    other.load_state_dict(engine.coordinator.state_dict(), on_task_change="adapt")
    open_plans = list(other.in_flight.values())
    assert open_plans
    for plan in open_plans:
        left = [plan.items[slot].task for slot in other.unobserved(plan.id)]
        assert "tests" not in left
        assert {plan.items[slot].task for slot in other.accepted(plan.id)} == {"code", "io"}
        other.observe_groups(plan.id, rewards(plan)[9:])
        other.observe_update(plan.id, 20, UpdateStats(kl={"code": 0.01}))
    assert not other.in_flight
    plan = other.plan(revision=20)
    assert {item.task for item in plan.items} == {"code", "commit", "io"}
    assert plan.receipt.notes[:2] == ("task commit is new", "task tests is gone")
    assert plan.receipt.phase == "scheduled"
    assert other.snapshot.tasks["commit"].groups == 0
    assert other.snapshot.tasks["code"].groups > 30
    assert other.metrics()["task/code/cosine/io"] > 0
    assert "task commit is new" not in other.plan(revision=21).receipt.notes


@pytest.mark.parametrize("names", ["code commit io tests", "code io"])
def test_tasks_that_only_came_or_only_went_are_measured_anew(names: str) -> None:
    """The saved snapshot is of other tasks: it is none of theirs within its own revision either."""
    engine = Lagging(build("code io tests"))
    for revision in range(8):
        engine.step(revision)
    other = build(names)
    other.load_state_dict(engine.coordinator.state_dict(), on_task_change="adapt")
    assert list(other.snapshot.tasks) == names.split()
    assert {item.task for item in other.plan(revision=7).items} == set(names.split())


def test_adapting_to_changed_prompts() -> None:
    engine = Lagging(build())
    for revision in range(8):
        engine.step(revision)
    state = engine.coordinator.state_dict()
    seen = engine.coordinator.metrics()["task/io/prompts_seen"]
    tasks = [TaskSpec(n, [f"{n}-{i}" for i in range(60)]) for n in RATES if n != "io"]
    changed = [f"io-{i}" for i in range(59, 20, -1)]
    other = Coordinator([*tasks, TaskSpec("io", changed)], prompts_per_step=16)
    with pytest.raises(StateError, match="prompts of io changed"):
        other.load_state_dict(state)
    other.load_state_dict(state, on_task_change="adapt")
    kept = other.metrics()["task/io/prompts_seen"]
    assert 0 < kept < seen
    assert other.metrics()["task/code/prompts_seen"] > 0
    for plan in list(other.in_flight.values()):
        other.observe_groups(plan.id, rewards(plan))
        other.observe_update(plan.id, 8, UpdateStats())
    assert other.metrics()["task/io/prompts_free"] == len(changed)
    plan = other.plan(revision=8)
    assert all(item.key in changed for item in plan.items if item.task == "io")
    assert f"task io: {int(seen - kept)} of {int(seen)} drawn prompts are gone" in (
        plan.receipt.notes
    )


def test_broken_states_are_named() -> None:
    each = build()
    Lagging(each).step(0)
    state = each.state_dict()
    for change, text in [
        ({"version": 0}, "state has version 0; it must be 2"),
        ({"extra": 1}, r"state of the coordinator: missing \[\], unknown \['extra'\]"),
        ({"flights": {}}, "state of plans in flight: missing"),
        ({"flights": {**state["flights"], "open": [{}]}}, "state of a plan in flight: missing"),
        ({"snapshot": {}}, "state of utility snapshot: missing"),
    ]:
        with pytest.raises(StateError, match=text):
            build().load_state_dict({**state, **change})


def test_what_ended_is_taken_in_after_a_resume_too() -> None:
    """A plan that ended since the last plan, and one that was given up: their groups wait."""
    each, other = build(), build()
    for revision in range(3):
        plan = each.plan(revision=revision)
        each.observe_groups(plan.id, rewards(plan)[:5])
        each.forget(plan.id)
        state = through_json(each.state_dict())
        other.load_state_dict(state)
        assert other.metrics() == each.metrics()
        other.load_state_dict(state)
    assert other.plan(revision=3) == each.plan(revision=3)


def test_synergy_of_another_kind_is_measured_anew_and_said() -> None:
    each = build()
    lagging = Lagging(each)
    for revision in range(30):
        lagging.step(revision)
    plain_options = CoordinatorOptions(synergy=SynergyOptions(every=4, estimator="plain"))
    other = build(options=plain_options)
    other.load_state_dict(each.state_dict())
    assert "synergy is measured anew" in " ".join(other.plan(revision=30).receipt.notes)
    assert "synergy" in " ".join(k for k in each.metrics() if "synergy" in k)
    assert not any(n.endswith("/synergy") for n in other.metrics())


def test_the_core_loads_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys, astor_rl.coordinator; "
        "print([m for m in ('torch', 'pydantic', 'transformers', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
