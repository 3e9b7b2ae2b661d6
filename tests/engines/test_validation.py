"""`astor validate` with real data and the real sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astor_rl.cli.app import run
from astor_rl.sandbox.protections import GUARANTEES


def write(folder: Path, *, wrong: int = -1) -> str:
    """A run file and its 20 rows; in row `wrong` no argument gives the output."""
    rows = [
        {
            "id": f"f{n}",
            "code": f"def f(x):\n    return x * {n + 2}",
            "input": "3",
            "output": "'never'" if n == wrong else str(3 * (n + 2)),
        }
        for n in range(20)
    ]
    (folder / "io.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "run.toml"
    path.write_text(
        f"""
model = "any"
sandbox.allow_missing = {sorted(GUARANTEES)}
[[tasks]]
name = "io"
task = "io_prediction"
source = "jsonl:io.jsonl"
options.direction = "input"
"""
    )
    return str(path)


def test_good_data_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", write(tmp_path)]) == 0
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    assert line.startswith("ok     io: 20 checked of ")
    assert line.endswith("0 not judged; verdict unforgeable")
    assert "loading train examples from jsonl:io.jsonl" in said.err


def test_fewer_examples_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", write(tmp_path), "-n", "3", "--plain"]) == 0
    assert "io: 3 checked of" in capsys.readouterr().out


def test_a_right_answer_that_is_not_rewarded_is_named_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", write(tmp_path, wrong=6)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("WRONG  io: 20 checked")
    assert "1 right answers not rewarded" in first
    assert second.startswith("       io.jsonl:7: right answer got 0 (")


def test_data_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path)
    (tmp_path / "io.jsonl").write_text('{"code": "def f(x): return x", "input": "1"}\n')
    assert run(["validate", config]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    place = tmp_path / "io.jsonl:1"
    assert last.startswith(f"error: task 'io', source: {place}: field 'output' is missing")


def test_a_reward_that_exits_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n} + 1", "answer": str(n + 1)}) + "\n" for n in range(20))
    )
    (tmp_path / "exiting_sums.py").write_text(
        "from astor_rl.tasks.from_reward import from_reward\n\n\n"
        "def graded(prompts, completions, **columns):\n    raise SystemExit(0)\n\n\n"
        "SUMS = from_reward(graded, answer_column='answer')\n"
    )
    config = tmp_path / "run.toml"
    config.write_text(
        """
model = "any"
[[tasks]]
name = "sums"
task = "exiting_sums:SUMS"
source = "jsonl:rows.jsonl"
"""
    )
    assert run(["validate", str(config)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "raised SystemExit: 0 at " in last
