"""Every failure of a command as one line and an exit code.

0 done · 1 failed · 2 the command or its configuration is wrong · 130 interrupted.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from astor_rl.errors import AstorError, ConfigError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
CRASH = "crash.txt"
"""Where a run folder keeps the traceback of an error that is ours."""
_CHECKPOINT = re.compile(r"(?:checkpoint-|global_step_)(\d+)")
"""As the local engine and verl call them."""


def fail(message: str, code: int) -> typer.Exit:
    """Say one line on standard error; returns what to raise."""
    sys.stderr.write(f"error: {one_line(message)}\n")
    sys.stderr.flush()
    return typer.Exit(code)


def one_line(message: str) -> str:
    """Line breaks and repeated blanks become single blanks."""
    return " ".join(message.split())


@contextmanager
def one_line_errors(
    *, debug: bool = False, folder: Path | None = None, resume: str = ""
) -> Iterator[None]:
    """Run a command's body; what it raises becomes one line and an exit code.

    Args:
        debug: show tracebacks on standard error.
        folder: the run folder, for the traceback of an unexpected error and the step reached.
        resume: the command that goes on after an interruption.
    """
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        sys.stderr.write(f"{interruption(folder, resume)}\n")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of a pipe left (`astor report RUN | head`): nobody is there to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except AstorError as error:
        if debug:
            traceback.print_exc()
        raise fail(str(error), USAGE if isinstance(error, ConfigError) else FAILED) from None
    except ModuleNotFoundError as error:
        missing = _missing_package(error)
        if debug or not missing:
            raise _unexpected(error, debug, folder) from None
        raise fail(missing, FAILED) from None
    except Exception as error:  # noqa: BLE001 - the last one to know: nothing may end in a wall of text
        raise _unexpected(error, debug, folder) from None


def interruption(folder: Path | None, resume: str) -> str:
    """How far an interrupted run came and how to go on."""
    if folder is None or not resume:
        return "interrupted"
    from astor_rl.report.run_folder import holds_run, read_metrics

    if not holds_run(folder):
        return "interrupted before the run began; nothing was written"
    records = read_metrics(folder)
    where = _reached(folder, int(records[-1]["step"])) if records else "before the first RL step"
    return f"interrupted {where}; go on with: {resume}"


def _reached(folder: Path, step: int) -> str:
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    steps = [int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))]
    newest = max(steps, default=0)
    if newest >= step:
        return f"at step {step}"
    if not newest:
        return f"at step {step}, before the first checkpoint"
    return f"at step {step}, of which those after step {newest} are in no checkpoint"


def _missing_package(error: ModuleNotFoundError) -> str:
    name = (error.name or "").partition(".")[0]
    if name in {"", "astor_rl"}:
        return ""
    from astor_rl.doctor import extra_of

    extra = extra_of(name)
    if extra is None:  # perhaps one's own module, and a stranger's package of its name
        return f"there is no module {name!r}, installed or beside the run file"
    return f"package {name!r} is missing; pip install 'astor-rl[{extra}]'"


def _unexpected(error: Exception, debug: bool, folder: Path | None) -> typer.Exit:
    said = f"unexpected {type(error).__name__}: {error}"
    if debug:
        traceback.print_exception(error)
        return fail(said, FAILED)
    return fail(f"{said} (traceback in {_keep_traceback(error, folder)})", FAILED)


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


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM (a scheduler's, a container's) ends a run as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
