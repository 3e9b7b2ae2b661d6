"""The command line as a stranger meets it: real processes, their text and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl import __version__
from astor_rl.cli.app import run

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
