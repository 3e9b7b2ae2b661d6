"""Every end of a command but success: its line, its exit code, and what is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from astor_rl.cli.app import run
from astor_rl.cli.errors import interruption, one_line_errors
from astor_rl.errors import CheckpointError, ConfigError
from astor_rl.report.run_folder import RunFolder

INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from astor_rl.cli.errors import one_line_errors, sigterm_interrupts
import typer
folder = Path(sys.argv[1])
# A job that a shell put into the background ignores it, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with one_line_errors(folder=folder, resume="astor train x.toml --resume"), sigterm_interrupts():
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        signal.pause()
except typer.Exit as exit:
    sys.exit(exit.exit_code)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_says_how_far_it_came_and_how_to_go_on(name: str, finished: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(finished), name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr == (
        "interrupted at step 2, before the first checkpoint; go on with: "
        "astor train x.toml --resume\n"
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interruption_says_what_there_is_to_go_on_with(tmp_path: Path) -> None:
    again = "astor train x.toml --resume"
    assert interruption(None, "") == "interrupted"
    nothing = interruption(tmp_path / "run", again)
    assert nothing == "interrupted before the run began; nothing was written"
    with RunFolder.create(tmp_path / "run", {"model": "tiny"}, resume=False):
        early = interruption(tmp_path / "run", again)
    assert early == f"interrupted before the first RL step; go on with: {again}"


def test_an_interruption_says_what_is_in_no_checkpoint(finished: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-0", ".checkpoint-2.partial"):
        (finished / "checkpoints" / name).mkdir(parents=True)
    assert interruption(finished, "again") == (
        "interrupted at step 2, of which those after step 1 are in no checkpoint; go on with: again"
    )
    (finished / "checkpoints" / "global_step_2").mkdir()
    assert interruption(finished, "again") == "interrupted at step 2; go on with: again"


def test_an_error_of_ours_in_a_run_keeps_its_traceback_in_the_run_folder(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), one_line_errors(folder=finished):
        json.loads("{")
    kept = finished / "crash.txt"
    assert capsys.readouterr().err.endswith(f"(traceback in {kept})\n")
    assert "JSONDecodeError" in kept.read_text()


def failing(error: BaseException) -> Callable[..., None]:
    def summarize(path: Path) -> None:
        raise error

    return summarize


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("seed = 'x': should be\n  a number"), 2, "seed = 'x': should be a number"),
        (CheckpointError("no space"), 1, "no space"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            "package 'torch' is missing; pip install 'astor-rl[local]'",
        ),
        (
            ModuleNotFoundError("No module named 'rouge_score'", name="rouge_score.x"),
            1,
            "package 'rouge_score' is missing; pip install 'astor-rl[tasks]'",
        ),
        (
            ModuleNotFoundError("No module named 'mine'", name="mine"),
            1,
            "there is no module 'mine', installed or beside the run file",
        ),
    ],
)
def test_failures_are_one_line_with_their_exit_code(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("astor_rl.report.closing.summarize", failing(error))
    assert run(["report", "x"]) == code
    assert capsys.readouterr().err == f"error: {line}\n"


def test_an_error_of_ours_keeps_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("astor_rl.report.closing.summarize", failing(ZeroDivisionError("oh\nno")))
    assert run(["report", "x"]) == 1
    said = capsys.readouterr().err
    kept = next(tmp_path.glob("astor-*.txt"))
    assert said == f"error: unexpected ZeroDivisionError: oh no (traceback in {kept})\n"
    assert "raise error" in kept.read_text()


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("astor_rl.report.closing.summarize", failing(ZeroDivisionError("oh")))
    assert run(["report", "x", "--debug"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("error: unexpected ZeroDivisionError: oh\n")
