from __future__ import annotations

import sys
from pathlib import Path

import pytest

from astor_rl.cli import invocation


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
