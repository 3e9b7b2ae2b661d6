"""What ends a command: a failure as one line and an exit code, an interruption, a broken pipe."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from astor_rl.report.failures import FAILED, INTERRUPTED, failure, one_line

_CHECKPOINT = re.compile(r"(?:checkpoint-|global_step_)(\d+)")
"""As the local engine and verl call them."""


def fail(message: str, code: int) -> typer.Exit:
    """Say one line on standard error; returns what to raise."""
    sys.stderr.write(f"error: {one_line(message)}\n")
    sys.stderr.flush()
    return typer.Exit(code)


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
    except Exception as error:  # noqa: BLE001 - the last one to know: nothing may end in a wall of text
        if debug:
            traceback.print_exception(error)
        found = failure(error, folder=folder, shown=debug)
        raise fail(found.line, found.code) from None


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
