"""One rollout that can't be judged must not end the run of all the others.

What goes wrong while a rollout is judged is the verifier's fault, not the model's: that rollout
becomes `Invalid`. The bug stays visible: the first of each kind is logged as a warning, with its
traceback, and `Invalid` rollouts are counted.
"""

from __future__ import annotations

import logging
import os
import sysconfig
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from astor_rl.errors import SandboxError
from astor_rl.types import Invalid

T = TypeVar("T")
P = ParamSpec("P")

_logger = logging.getLogger(__name__)
_OTHERS = (
    "<frozen ",
    *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib")),
    f"{Path(__file__).parents[1]}{os.sep}",
)
"""How the files begin that are not the user's own."""
_told: set[tuple[str, str]] = set()
"""(task, exception) of what has been logged: a bug may come back with every rollout."""


def guarded(kind: str, judge: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Invalid:
    """What `judge` says of one rollout, or `Invalid` if it raises.

    Args:
        kind: the task's, for the log.
        judge: called with the other arguments.

    Raises:
        SandboxError: no rollout can be judged, this one's content is not the cause.
    """
    try:
        return judge(*args, **kwargs)
    except SandboxError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a hostile answer can bring about
        return _invalid(kind, error)


async def guarded_async(kind: str, judging: Awaitable[T]) -> T | Invalid:
    """As `guarded`, for judging that is awaited.

    Raises:
        SandboxError: no rollout can be judged, this one's content is not the cause.
    """
    try:
        return await judging
    except SandboxError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a hostile answer can bring about
        return _invalid(kind, error)


def described(error: BaseException) -> str:
    """What was raised and the line of one's own code where: `KeyError: 'x' at sums.py:12`.

    One's own is the innermost line outside of installed packages, the standard library and
    astor_rl; without any, no place is given.
    """
    said = f"{type(error).__name__}: {error}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OTHERS)
    ]
    return f"{said} at {own[-1].filename}:{own[-1].lineno}" if own else said


def _invalid(kind: str, error: Exception) -> Invalid:
    name = type(error).__name__
    if (kind, name) not in _told:
        _told.add((kind, name))
        _logger.warning(
            "task %s: %s while judging a rollout, which is left out as invalid; "
            "further ones like it are not logged",
            kind,
            name,
            exc_info=error,
        )
    return Invalid(f"the verifier failed: {name}: {error}"[:200])
