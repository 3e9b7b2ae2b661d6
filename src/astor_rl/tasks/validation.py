"""Checks every task shares: rows, options, and whether a verifier can tell right from wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from types import UnionType
from typing import Any, TypeVar, cast

from astor_rl.errors import ConfigError, DataError
from astor_rl.sandbox.api import Limits
from astor_rl.tasks.base import Pair, Task, ValidationReport
from astor_rl.types import Example, Invalid, Rollout

T = TypeVar("T")

_BATCH = 512
"""Answers scored at once by `validate`: enough to keep a pool busy, little enough to hold."""


def _accepts(value: object, kind: type[Any] | UnionType) -> bool:
    """`isinstance`, except that a bool is not a number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)


def _type_name(kind: type[Any] | UnionType) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def require(row: Mapping[str, Any], name: str, kind: type[T], origin: str) -> T:
    """The field `name` of a row, checked.

    Args:
        row: one line of data.
        name: the field.
        kind: its type; a bool passes only as `bool`.
        origin: where the row is from, for the message.

    Raises:
        DataError: the field is missing or of another type.
    """
    if name not in row:
        raise DataError(f"{origin}: field {name!r} is missing; it must be {_type_name(kind)}")
    value = row[name]
    if not _accepts(value, kind):
        shown = type(value).__name__
        raise DataError(f"{origin}: field {name!r} is {shown}; it must be {_type_name(kind)}")
    return cast(T, value)


def optional(row: Mapping[str, Any], name: str, kind: type[T], origin: str, default: T) -> T:
    """As `require`, but a missing or null field gives `default`.

    Raises:
        DataError: the field is there and of another type.
    """
    return default if row.get(name) is None else require(row, name, kind, origin)


def require_texts(row: Mapping[str, Any], name: str, origin: str) -> tuple[str, ...]:
    """A field that is a non-empty list of strings.

    Raises:
        DataError: the field is missing, empty, or holds something else than strings.
    """
    values: list[Any] = require(row, name, list, origin)
    if not values:
        raise DataError(f"{origin}: field {name!r} is empty; it must hold at least one text")
    for place, value in enumerate(values):
        if not isinstance(value, str):
            shown = type(value).__name__
            raise DataError(f"{origin}: field '{name}[{place}]' is {shown}; it must be str")
    return tuple(values)


def read_options(
    kind: str, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """A task's options: `config` over `defaults`, each value of its default's type.

    An int is accepted where the default is a float. Ranges are the task's own business.

    Raises:
        ConfigError: an unknown option or a value of another type.
    """
    merged = dict(defaults)
    for name, value in config.items():
        if name not in defaults:
            known = ", ".join(sorted(defaults)) or "none"
            raise ConfigError(f"unknown option {name!r} of task {kind!r}; known options: {known}")
        wanted = type(defaults[name])
        accepted = int | float if wanted is float else wanted
        if not _accepts(value, accepted):
            raise ConfigError(
                f"option {name!r} of task {kind!r} is {value!r}; it must be {wanted.__name__}"
            )
        merged[name] = wanted(value)
    return merged


def defaults_of(task: type[Any]) -> dict[str, Any]:
    """A task's options and their defaults: the keyword-only parameters of its constructor.

    Raises:
        TypeError: one of them has no default.
    """
    parameters = signature(task).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    for name, default in options.items():
        if default is Parameter.empty:
            raise TypeError(f"option {name!r} of {task.__name__} has no default; give it one")
    return options


def require_choice(kind: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Check that an option is one of the allowed words.

    Raises:
        ConfigError: it isn't.
    """
    if value not in choices:
        raise ConfigError(
            f"option {name!r} of task {kind!r} is {value!r}; it must be one of {', '.join(choices)}"
        )


def time_limits(cpu_s: float) -> Limits:
    """Limits of one run: a CPU deadline, and a wall-clock one four times as long.

    CPU time decides, so that a busy machine doesn't turn right answers into wrong ones; the wall
    clock only ends what sleeps.
    """
    return Limits(cpu_s=cpu_s, wall_s=4 * cpu_s)


def rollout_of(text: str) -> Rollout:
    """A rollout that holds only a text, for scoring answers that no model sampled."""
    return Rollout(
        text=text,
        prompt_ids=(),
        completion_ids=(),
        logprobs=(),
        loss_mask=(),
        revision=0,
        finish_reason="stop",
        index=0,
    )


async def validate(task: Task, examples: Sequence[Example]) -> ValidationReport:
    """Score the reference answer and every broken variant of each example.

    Any task's `validate` may be this. A broken answer that the verifier can't judge counts as
    told apart: it earns nothing.
    """
    pairs: list[Pair] = []
    variants: list[str | None] = []
    for example in examples:
        pairs.append((example, rollout_of(task.answer(example))))
        variants.append(None)
        for name, text in task.broken(example).items():
            pairs.append((example, rollout_of(text)))
            variants.append(name)
    low: list[tuple[str, float, str]] = []
    untold: list[tuple[str, str, float]] = []
    invalid: list[tuple[str, str]] = []
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        scores = await task.score(batch)
        for (example, _), variant, score in zip(
            batch, variants[start : start + _BATCH], scores, strict=True
        ):
            ceiling = task.ceiling(example)
            if isinstance(score, Invalid):
                if variant is None:
                    invalid.append((example.origin, score.reason))
            elif variant is None and score.outcome < ceiling:
                low.append((example.origin, score.outcome, score.reason))
            elif variant is not None and score.outcome >= ceiling:
                untold.append((example.origin, variant, score.outcome))
    return ValidationReport(len(examples), tuple(low), tuple(untold), tuple(invalid))
