"""Checks at the coordinator's door: what callers hand in is right, or one line says what is not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np

from astor_rl.checks import check_count, check_number, check_prompt_key
from astor_rl.errors import ConfigError, PlanError
from astor_rl.plan import GroupOutcome, StepPlan, TaskSpec, UpdateStats

_MOST_KEYS = 1_000_000
"""Of which all are looked at; some tenths of a second."""


def checked_tasks(tasks: Iterable[TaskSpec]) -> dict[str, TaskSpec]:
    """Tasks by name, in the order of their names.

    Keys are any sequence, maybe a view of millions: of lists the keys are all looked at, of others
    the first; the others are when they are drawn.

    Raises:
        ConfigError: no task, a repeated name or key, a key that isn't text, or a value out of its
            range.
    """
    specs = sorted(tasks, key=lambda spec: spec.name)
    if not specs:
        raise ConfigError("there are no tasks; give at least one")
    for spec, following in pairwise(specs):
        if spec.name == following.name:
            raise ConfigError(f"two tasks are named {spec.name!r}; names must be unique")
    for spec in specs:
        if not spec.name:
            raise ConfigError("a task's name is empty; give it one")
        check_number(f"ratio of task {spec.name}", spec.ratio, low=0, above=True)
        check_number(f"beta of task {spec.name}", spec.beta, low=0)
        check_count(f"num_generations of task {spec.name}", spec.num_generations, low=2)
        check_count(f"max_tokens of task {spec.name}", spec.max_tokens, low=1)
        _check_prompts(spec)
    return {spec.name: replace(spec, difficulty=_difficulty(spec)) for spec in specs}


def _check_prompts(spec: TaskSpec) -> None:
    whole = isinstance(spec.keys, list | tuple) and len(spec.keys) <= _MOST_KEYS
    for place in range(len(spec.keys) if whole else min(1, len(spec.keys))):
        check_prompt_key(spec.name, spec.keys[place])
    if whole and len(set(spec.keys)) < len(spec.keys):
        key, times = Counter(spec.keys).most_common(1)[0]
        raise ConfigError(
            f"task {spec.name}: key {key!r} is there {times} times; keys must be unique"
        )


def _difficulty(spec: TaskSpec) -> tuple[float, ...] | None:
    if spec.difficulty is None:
        return None
    if len(spec.difficulty) != len(spec.keys):
        raise ConfigError(
            f"difficulty of task {spec.name} has {len(spec.difficulty)} values for "
            f"{len(spec.keys)} prompts; give one for each, or None"
        )
    try:
        values = np.array(spec.difficulty, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigError(
            f"difficulty of task {spec.name} holds something that is no number"
        ) from None
    for place in np.flatnonzero(~((values >= 0) & (values <= 1)))[:1].tolist():
        check_number(
            f"difficulty[{place}] of task {spec.name}", float(values[place]), low=0, high=1
        )
    return tuple(values.tolist())


def check_request(
    tasks: Collection[str],
    revision: int,
    need: Mapping[str, int] | None,
    available: Mapping[str, int] | None,
) -> None:
    """Check what a plan is asked for.

    Raises:
        PlanError: an unknown task, a count that is not a whole number >= 0, or nothing needed.
    """
    _check_whole("revision", revision)
    for what, counts in (("need", need), ("available", available)):
        for name, count in (counts or {}).items():
            if name not in tasks:
                raise PlanError(f"{what} names task {name!r}; the tasks are {', '.join(tasks)}")
            _check_whole(f"{what} of task {name}", count)
    if need is not None and not sum(need.values()):
        raise PlanError("need asks for no prompt at all; ask for at least one")


def _check_whole(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise PlanError(f"{what} is {value!r}; it must be a whole number of at least 0")


def checked_group(plan: StepPlan, group: GroupOutcome) -> GroupOutcome:
    """The group with plain Python numbers.

    Raises:
        PlanError: an unknown slot, a reward that is NaN or outside [0, 1], more rollouts than
            the plan asked for, or a negative count. Names the task and the prompt.
    """
    if not 0 <= group.slot < len(plan.items):
        raise PlanError(
            f"plan {plan.id} has no slot {group.slot}; its slots are 0 to {len(plan.items) - 1}"
        )
    item = plan.items[group.slot]
    where = f"task {item.task}, prompt {item.key} (plan {plan.id}, slot {group.slot})"
    outcomes = tuple(_reward(where, outcome) for outcome in group.outcomes)
    if group.invalid < 0 or group.tokens < 0:
        raise PlanError(
            f"{where}: invalid {group.invalid}, tokens {group.tokens}; both must be at least 0"
        )
    if len(outcomes) + group.invalid > item.num_generations:
        raise PlanError(
            f"{where}: {len(outcomes)} outcomes and {group.invalid} invalid rollouts; the plan "
            f"asked for {item.num_generations}"
        )
    return GroupOutcome(group.slot, outcomes, int(group.invalid), int(group.tokens))


def _reward(where: str, outcome: object) -> float:
    """A reward of any number type, a tensor's scalar too. Text that reads like one is a mistake."""
    value = math.nan
    if not isinstance(outcome, str | bytes):
        with suppress(TypeError, ValueError):
            value = float(outcome)  # type: ignore[arg-type]
    if not 0 <= value <= 1:
        raise PlanError(f"{where}: outcome reward {outcome!r}; it must be a number in [0, 1]")
    return value


UPDATE_FIGURES = ("kl", "loss_tokens", "policy_loss_share", "kl_loss_share", "nonzero_groups")
"""What an update reports by task, `UpdateStats`' names."""


def checked_stats(stats: UpdateStats, tasks: Collection[str]) -> dict[str, dict[str, float]]:
    """The update's figures by task and name.

    Raises:
        PlanError: an unknown task or a figure that is not finite; both are named.
    """
    figures: dict[str, dict[str, float]] = {name: {} for name in tasks}
    by_name: dict[str, Mapping[str, float]] = {
        figure: getattr(stats, figure) for figure in UPDATE_FIGURES
    }
    for figure, values in by_name.items():
        for task, value in values.items():
            if task not in figures:
                raise PlanError(
                    f"update reports {figure} of task {task!r}; the tasks are {', '.join(tasks)}"
                )
            if not math.isfinite(value):
                raise PlanError(f"update reports {figure} {value!r} of task {task}; not finite")
            figures[task][figure] = float(value)
    return figures
