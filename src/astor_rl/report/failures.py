"""Every failure as one line and an exit code, for a command and for what it starts.

0 done · 1 failed · 2 the command or its configuration is wrong · 130 interrupted.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from astor_rl.errors import AstorError, ConfigError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
CRASH = "crash.txt"
"""Where a run folder keeps the traceback of an error that is ours."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What to say of an error, and the process's exit code."""

    line: str
    code: int


def failure(error: Exception, *, folder: Path | None = None, shown: bool = False) -> Failure:
    """What an error comes to. The traceback of one that is ours is kept.

    Args:
        error: what ended a command, or a process of one.
        folder: the run folder, which keeps the traceback; without it a temporary file does.
        shown: the traceback was shown: nothing is kept.
    """
    if isinstance(error, AstorError):
        return Failure(one_line(str(error)), USAGE if isinstance(error, ConfigError) else FAILED)
    if isinstance(error, ModuleNotFoundError) and not shown and (said := _missing(error)):
        return Failure(said, FAILED)
    said = one_line(f"unexpected {type(error).__name__}: {error}")
    if not shown:
        said += f" (traceback in {_keep_traceback(error, folder)})"
    return Failure(said, FAILED)


def one_line(message: str) -> str:
    """Line breaks and repeated blanks become single blanks."""
    return " ".join(message.split())


def _missing(error: ModuleNotFoundError) -> str:
    name = (error.name or "").partition(".")[0]
    if name in {"", "astor_rl"}:
        return ""
    from astor_rl.report.extras import DISTRIBUTION, extra_of  # reads all packages' metadata

    extra = extra_of(name)
    if extra is None:  # perhaps one's own module, and a stranger's package of its name
        return f"there is no module {name!r}, installed or beside the run file"
    return f"package {name!r} is missing; pip install '{DISTRIBUTION}[{extra}]'"


def _keep_traceback(error: Exception, folder: Path | None) -> str:
    lines = "".join(traceback.format_exception(error))
    if folder is not None and folder.is_dir():
        try:
            (folder / CRASH).write_text(lines, encoding="utf-8", errors="replace")
        except OSError:
            pass  # the disk may be what failed; a temporary file may still work
        else:
            return str(folder / CRASH)
    descriptor, name = tempfile.mkstemp(prefix="astor-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.write(lines)
    return name
