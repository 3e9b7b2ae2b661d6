"""`astor mine` on a folder of one's own, with the real sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from astor_rl.cli.app import run
from astor_rl.config import load_config
from astor_rl.sandbox.probe import facilities
from astor_rl.tasks.registry import KINDS, make_task

SOURCE = '''
def clamp(value, low, high):
    """Hold a value between two others.

    >>> clamp(5, 0, 3)
    3
    >>> clamp(-1, 0, 3)
    0
    >>> clamp(2, 0, 3)
    2
    """
    if value < low:
        return low
    if value > high:
        return high
    return value
'''


@pytest.fixture
def allowed() -> Sequence[str]:
    """Protections this machine can't give: the code that is mined here is ours."""
    missing = [facility.name for facility in facilities() if not facility.available]
    return [part for name in missing for part in ("--allow-missing", name)]


def test_a_folder_becomes_data_for_all_four_tasks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: Sequence[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tools.py").write_text(SOURCE)
    assert run(["mine", "./own", "-o", 'da"ta', *allowed]) == 0
    said = capsys.readouterr().out
    assert "Mining: ./own\n" in said
    assert """ train 'da"ta/run.toml'\n""" in said
    assert "that is little (io_prediction from 1, " in said

    config = load_config(tmp_path / 'da"ta' / "run.toml")
    assert Path(config.output_dir).name == 'da"ta'
    assert {block.task for block in config.tasks} == set(KINDS)
    for block in config.tasks:
        lines = (tmp_path / 'da"ta' / block.sources[0].removeprefix("jsonl:")).read_text()
        rows = [json.loads(line) for line in lines.splitlines()]
        assert f"{block.task}: {len(rows)} from own" in said
        options = {"synonyms": "off"} if block.task == "commit_message" else {}
        task = make_task(block.task, options, None)
        for row in rows:
            task.prompt(task.example(row, origin="mined"))

    assert run(["mine", "./own", "-o", 'da"ta', *allowed]) == 2
    assert """'da"ta' holds mined data already""" in capsys.readouterr().err


def test_what_cannot_be_mined_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: Sequence[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["mine", "./absent", "-o", "data", *allowed]) == 1
    said = capsys.readouterr().err
    assert "./absent" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "data").exists()
    assert run(["mine", "toolz", "--allow-missing", "everything"]) == 1
    assert "'everything'" in capsys.readouterr().err
