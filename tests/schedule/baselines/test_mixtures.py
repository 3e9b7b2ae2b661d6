"""Fixed mixtures."""

from __future__ import annotations

import pytest

from astor_rl.coordinator import Coordinator
from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.errors import PlanError
from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.mixtures import Proportional, Uniform
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.task_utility import UtilitySnapshot

TASKS = [TaskSpec("a", ["x"] * 30, ratio=5.0), TaskSpec("b", ["x"] * 10)]


def test_uniform_ignores_ratios_and_sizes():
    assert Uniform(TASKS, BaselineOptions()).shares_at(UtilitySnapshot(0, {})).tolist() == [0.5] * 2


def test_proportional_follows_sizes():
    """30 and 10 prompts: 30/40 and 10/40."""
    arm = Proportional(TASKS, BaselineOptions())
    assert arm.shares_at(UtilitySnapshot(0, {})).tolist() == [0.75, 0.25]
    assert arm.terms("a") == {"examples": 30.0}


def test_proportional_of_nothing_is_the_usual_error():
    options = CoordinatorOptions(schedule=ScheduleOptions(method="proportional"))
    empty = Coordinator([TaskSpec("a", []), TaskSpec("b", [])], prompts_per_step=8, options=options)
    with pytest.raises(PlanError, match="8 prompts are wanted and 0 are available"):
        empty.plan(revision=0)


def test_a_specialist_never_takes_another_task(bench, world):
    assert bench("single", task="b").shares() == [0.0, 1.0]
    each = world("single", size=10)
    with pytest.raises(PlanError, match="8 prompts are wanted and 7 are available"):
        each.coordinator.plan(revision=0, available={"a": 7})
