"""The checks at the coordinator's door, met through the coordinator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.errors import ConfigError, PlanError
from astor_rl.plan import GroupOutcome, TaskSpec, UpdateStats
from astor_rl.schedule.quota import ScheduleOptions


def specs() -> list[TaskSpec]:
    return [
        TaskSpec(name, [f"{name}-{i}" for i in range(60)])
        for name in ("code", "commit", "io", "tests")
    ]


def coordinator() -> Coordinator:
    return Coordinator(specs(), prompts_per_step=16)


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (GroupOutcome(16, (1.0,)), "plan 0 has no slot 16; its slots are 0 to 15"),
        (GroupOutcome(-1, (1.0,)), "plan 0 has no slot -1"),
        (GroupOutcome(0, (1.0, math.nan)), "task code, prompt code-.* reward nan"),
        (
            GroupOutcome(5, (1.5,)),
            "task commit, prompt commit-.* reward 1.5; it must be a number in",
        ),
        (GroupOutcome(5, ("1",)), "reward '1'; it must be a number in"),  # type: ignore[arg-type]
        (GroupOutcome(5, (None,)), "reward None"),  # type: ignore[arg-type]
        (GroupOutcome(5, (-0.1,)), "reward -0.1"),
        (GroupOutcome(5, (math.inf,)), "reward inf"),
        (GroupOutcome(5, (1.0,), invalid=-1), "invalid -1"),
        (GroupOutcome(5, (1.0,), tokens=-1), "tokens -1"),
        (GroupOutcome(5, (1.0,) * 8, invalid=1), "8 outcomes and 1 invalid rollouts"),
    ],
)
def test_bad_groups_are_refused_whole(group: GroupOutcome, text: str) -> None:
    each = coordinator()
    plan = each.plan(revision=0)
    with pytest.raises(PlanError, match=text):
        each.observe_groups(plan.id, [GroupOutcome(1, (0.0, 1.0)), group])
    assert len(each.unobserved(plan.id)) == 16


def test_bad_requests_are_named() -> None:
    each = coordinator()
    plan = each.plan(revision=5)
    for call, text in [
        (lambda: each.plan(revision=4), "revision 4 was asked for after 5"),
        (lambda: each.plan(revision=-1), "revision is -1"),
        (lambda: each.plan(revision=5, need={"x": 1}), "need names task 'x'; the tasks are code"),
        (lambda: each.plan(revision=5, available={"x": 1}), "available names task 'x'"),
        (lambda: each.plan(revision=5, need={"io": -1}), "need of task io is -1"),
        (lambda: each.plan(revision=5, need={"io": True}), "need of task io is True"),
        (lambda: each.plan(revision=5, need={"io": 0}), "need asks for no prompt"),
        (lambda: each.observe_groups(9, []), "plan 9 is not in flight: never made"),
        (lambda: each.observe_update(plan.id, 4, UpdateStats()), "the update's revision is 4"),
        (lambda: each.observe_update(plan.id, 6, UpdateStats(kl={"x": 1.0})), "task 'x'"),
        (
            lambda: each.observe_update(plan.id, 6, UpdateStats(kl={"io": math.nan})),
            "kl nan of task io",
        ),
    ]:
        with pytest.raises(PlanError, match=text):
            call()
    assert each.plan(revision=5).id == 1


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (TaskSpec("", ["k"]), "a task's name is empty"),
        (TaskSpec("a", ["k"], ratio=0.0), "ratio of task a is 0.0"),
        (TaskSpec("a", ["k"], beta=-1.0), "beta of task a is -1.0"),
        (TaskSpec("a", ["k"], num_generations=1), "num_generations of task a is 1"),
        (TaskSpec("a", ["k"], max_tokens=0), "max_tokens of task a is 0"),
    ],
)
def test_bad_tasks_are_named(spec: TaskSpec, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Coordinator([spec], prompts_per_step=1)


def test_a_coordinator_needs_tasks_and_a_batch() -> None:
    with pytest.raises(ConfigError, match="there are no tasks"):
        Coordinator([], prompts_per_step=1)
    with pytest.raises(ConfigError, match="prompts_per_step is 0"):
        Coordinator(specs(), prompts_per_step=0)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (range(60), "task io: key 0 is int; keys are text, so str(0)"),
        (["a", 1], "task io: key 1 is int"),
        (["a", "\ud800"], "task io: key '\\ud800' can't be written as UTF-8"),
        (["a", "b", "a"], "task io: key 'a' is there 2 times; keys must be unique"),
    ],
)
def test_keys_that_a_state_could_not_hold_are_refused_at_once(keys: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Coordinator([TaskSpec("io", keys)], prompts_per_step=1)
    assert text in str(error.value)


class _Late(Sequence[Any]):
    """A view whose later keys are no text."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, place: Any) -> Any:
        return "first" if place == 0 else place


def test_of_a_view_the_keys_are_looked_at_when_they_are_drawn() -> None:
    each = Coordinator([TaskSpec("io", _Late())], prompts_per_step=4)
    with pytest.raises(ConfigError, match="task io: key .* is int"):
        each.plan(revision=0)


def test_rewards_of_any_number_type_are_taken() -> None:
    each = Coordinator([TaskSpec("io", ["a"])], prompts_per_step=1)
    plan = each.plan(revision=0)
    rewards = (np.float32(0.5), np.int64(1), True)
    each.observe_groups(plan.id, [GroupOutcome(0, rewards)])  # type: ignore[arg-type]
    assert each.accepted(plan.id) == (0,)


def test_what_to_do_with_other_tasks_is_one_of_two() -> None:
    each = Coordinator([TaskSpec("io", ["a", "b"])], prompts_per_step=1)
    with pytest.raises(ConfigError, match="on_task_change is 'x'; it must be one of error, adapt"):
        each.load_state_dict(each.state_dict(), on_task_change="x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        ((0.1,) * 59, "has 59 values for 60 prompts"),
        ((0.1,) * 59 + (7.0,), r"difficulty\[59\] of task io is 7.0"),
        ((float("nan"),) * 60, r"difficulty\[0\] of task io is nan"),
        (("easy",) * 60, "difficulty of task io holds something that is no number"),
    ],
)
def test_a_wrong_difficulty_is_refused(difficulty: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Coordinator([replace(specs()[2], difficulty=difficulty)], prompts_per_step=4)


def test_difficulties_may_be_an_array() -> None:
    options = CoordinatorOptions(schedule=ScheduleOptions(method="adarft"))
    spec = replace(specs()[2], difficulty=np.linspace(0, 1, 60, dtype=np.float32))  # type: ignore[arg-type]
    each = Coordinator([spec], prompts_per_step=4, options=options)
    assert len(each.plan(revision=0).items) == 4
