"""Arms by name, on tasks a, b, ...; and a little world whose tasks differ in difficulty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from astor_rl.coordinator import Coordinator
from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.plan import GroupOutcome, StepPlan, TaskSpec, UpdateStats
from astor_rl.schedule.baselines.arm import Arm, Seen
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.schedule.baselines.registry import make_arm
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.task_utility import TaskUtility, UtilitySnapshot

RATES = {"a": 0.05, "b": 0.5, "c": 0.95}


def specs(names: str, size: int) -> list[TaskSpec]:
    hard = [place / size for place in range(size)]
    return [TaskSpec(name, [f"{name}{i}" for i in range(size)], difficulty=hard) for name in names]


class Bench:
    """An arm with its clock: `feed` groups, `shares` of the next revision."""

    def __init__(self, arm: Arm, names: str) -> None:
        self.arm = arm
        self.names = names
        self.revision = 0

    def shares(self, **synergy: float) -> list[float]:
        tasks = {
            name: TaskUtility(0, 0, 0, 0, synergy.get(name), None, 0, 0, None, None)
            for name in self.names
        }
        found = self.arm.shares_at(UtilitySnapshot(self.revision, tasks)).tolist()
        self.revision += 1
        return found

    def feed(self, task: str, *outcomes: float, index: int = 0) -> None:
        self.arm.observe(Seen(self.revision, task, index, outcomes))


@pytest.fixture
def bench() -> Callable[..., Bench]:
    def build(method: Any, names: str = "ab", *, size: int = 10, **options: Any) -> Bench:
        arm = make_arm(method, specs(names, size), BaselineOptions(**{"horizon": 10, **options}))
        assert arm is not None
        return Bench(arm, names)

    return build


class World:
    """A coordinator with an engine that refills; outcomes depend on the plan's id alone."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    def groups(self, plan: StepPlan) -> list[GroupOutcome]:
        rng = np.random.default_rng([7, plan.id])
        return [
            GroupOutcome(
                item.slot, tuple((rng.random(8) < RATES[item.task]).astype(float).tolist()), 0, 50
            )
            for item in plan.items
        ]

    def step(self, revision: int, **request: Any) -> list[StepPlan]:
        each = self.coordinator
        plans = [each.plan(revision=revision, **request)]
        each.observe_groups(plans[0].id, self.groups(plans[0]))
        while need := each.shortfall([plan.id for plan in plans]):
            plans.append(each.plan(revision=revision, need=need))
            each.observe_groups(plans[-1].id, self.groups(plans[-1]))
        for plan in plans:
            each.observe_update(plan.id, revision + 1, UpdateStats())
        return plans


@pytest.fixture
def world() -> Callable[..., World]:
    def build(
        method: Any, names: Sequence[str] = "abc", *, size: int = 40, seed: int = 0, **options: Any
    ) -> World:
        given = {"horizon": 10, "task": names[0], "max_rounds": 3, **options}
        return World(
            Coordinator(
                specs("".join(names), size),
                prompts_per_step=8,
                options=CoordinatorOptions(
                    schedule=ScheduleOptions(method=method), baseline=BaselineOptions(**given)
                ),
                seed=seed,
                refills=True,
            )
        )

    return build
