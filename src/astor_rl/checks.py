"""What options and saved states share: checks of one line, and which entries to take up.

Messages follow the rule of `errors.py`: the thing, the value it has, what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from astor_rl.errors import ConfigError, StateError

LEAST_TAU = 1e-6
"""Of a softmax's temperature: below it the best takes all in any case, and quotients overflow."""


def check_number(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
) -> None:
    """Check that an option is a finite number in [low, high] (or in (low, high] with `above`).

    Args:
        name: the option's key as a config spells it, `schedule.tau`.
        value: what it was set to.
        low, high: the range, both ends included.
        above: exclude `low` itself.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = low < value <= high if above else low <= value <= high
        if inside and math.isfinite(value):
            return
    if math.isfinite(high):
        wanted = f"in {'(' if above else '['}{low:g}, {high:g}]"
    else:
        wanted = f"{'above' if above else 'at least'} {low:g}"
    raise ConfigError(f"{name} is {value!r}; it must be a finite number {wanted}")


def check_count(name: str, value: object, *, low: int) -> None:
    """Check that an option is an integer of at least `low`.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; it must be an integer of at least {low}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Check that an option is one of `choices`.

    Raises:
        ConfigError: it is not.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")


def check_prompt_key(task: str, key: object) -> None:
    """Check that a prompt's key is text that can be saved.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(key, str):
        raise ConfigError(
            f"task {task}: key {key!r} is {type(key).__name__}; keys are text, so str({key!r})"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"task {task}: key {key!r} can't be written as UTF-8: {error.reason}"
        ) from None


def check_keys(what: str, state: Mapping[str, Any], expected: Collection[str]) -> None:
    """Check that a saved state has exactly the expected entries.

    Raises:
        StateError: entries are missing or unknown; both are named.
    """
    missing = sorted(set(expected) - set(state))
    unknown = sorted(set(state) - set(expected))
    if missing or unknown:
        raise StateError(f"state of {what}: missing {missing}, unknown {unknown}")


def saved_of(saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """For each task of `fresh` its saved entry, or its fresh one where there is none."""
    return {name: saved.get(name, entry) for name, entry in fresh.items()}
