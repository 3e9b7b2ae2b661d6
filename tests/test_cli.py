"""The command line as a stranger meets it: real processes, their text and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from astor_rl import __version__
from astor_rl.cli import invocation
from astor_rl.cli.app import run
from astor_rl.cli.errors import interruption, one_line_errors
from astor_rl.errors import CheckpointError, ConfigError
from astor_rl.report.run_folder import RunFolder

Astor = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def astor(tmp_path: Path) -> Astor:
    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from astor_rl.cli import main; main()", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "100", **environment},
            check=False,
        )

    return call


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    with RunFolder.create(
        tmp_path / "run", {"model": "tiny", "tasks": [{"name": "io"}]}, resume=False
    ) as folder:
        for step in (1, 2):
            folder.append_receipt(step, {"tasks": {"io": {"share": 1.0, "beta": 0.01 * step}}})
            folder.append_metrics(step, {"time/step": 1.0, "tokens/generated": 50})
    return folder.path


def test_help_names_every_command_and_where_to_begin(astor: Astor) -> None:
    done = astor("--help")
    assert done.returncode == 0
    for command in ("train", "eval", "doctor", "report", "why", "merge", "mine", "validate"):
        assert command in done.stdout
    assert "astor doctor" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command", ["train", "eval", "doctor", "report", "why", "merge", "mine", "validate"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert "Usage: astor" in capsys.readouterr().out


def test_help_and_version_load_no_heavy_room(astor: Astor, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom astor_rl.cli.app import run\nrun(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'datasets'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", program, option], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_version(astor: Astor) -> None:
    assert astor("--version").stdout == f"astor-rl {__version__}\n"


def test_no_arguments_print_the_help_and_fail(astor: Astor) -> None:
    done = astor()
    assert done.returncode == 2
    assert "Usage: astor" in done.stdout
    assert done.stderr == ""


def test_report_prints_the_closing_table_again(astor: Astor, finished: Path) -> None:
    done = astor("report", finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 RL steps of tiny, 100 tokens sampled" in done.stdout
    assert f"run folder: {finished}" in done.stdout


def test_report_as_json_and_as_a_picture(astor: Astor, finished: Path, tmp_path: Path) -> None:
    done = astor("report", finished, "--json", "--svg", tmp_path / "plot.svg")
    assert json.loads(done.stdout)["tasks"][0]["beta"] == [0.01, 0.02]
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


def test_report_to_a_stream_that_cannot_show_it(astor: Astor, finished: Path) -> None:
    done = astor("report", finished, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "io" in done.stdout


def test_a_reader_that_leaves_is_no_error(finished: Path) -> None:
    program = "from astor_rl.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "report", str(finished)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert errors == ""
    assert process.returncode == 1


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


def test_commands_are_printed_as_the_program_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [tmp_path / "here/.venv/bin/astor", tmp_path / "there/bin/astor"]
    for program in programs:
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(programs[1].parent))
    monkeypatch.setattr(sys, "orig_argv", [str(programs[0].with_name("python")), "-m", "astor_rl"])
    for called, expected in (
        (".venv/bin/astor", ".venv/bin/astor train 'a b'"),
        (str(programs[0]), ".venv/bin/astor train 'a b'"),
        (str(programs[1]), "astor train 'a b'"),
        ("/lib/astor_rl/__main__.py", ".venv/bin/python -m astor_rl train 'a b'"),
        ("pytest", "astor train 'a b'"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert invocation.command("train", "a b") == expected
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [str(programs[1])])
    assert invocation.command("train") == f"{programs[1]} train"
    monkeypatch.chdir(programs[1].parent)
    assert invocation.command("train") == "./astor train"


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
