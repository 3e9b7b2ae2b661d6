"""`astor eval --suite`: every suite on a real, tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from astor_rl.cli.app import run

FILES = {
    "cruxeval-input": "cruxeval.jsonl",
    "humaneval": "HumanEval.jsonl",
    "mbpp": "mbpp.jsonl",
    "aider-polyglot": "code_generation.heldout.aider_polyglot_python.jsonl",
    "unit-tests": "unit-tests.jsonl",
    "commit-messages": "commit-messages.jsonl",
}


@pytest.fixture
def evaluate(capsys) -> Callable[..., tuple[int, str]]:
    """Run `astor eval` in this process: importing torch again takes longer than all suites."""

    def call(*arguments: object) -> tuple[int, str]:
        code = run(["eval", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def data_dir(tmp_path: Path, suite_rows: dict[str, Sequence[dict[str, Any]]]) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, file in FILES.items():
        lines = "".join(json.dumps(row) + "\n" for row in suite_rows[name])
        (folder / file).write_text(lines)
    return folder


@pytest.mark.slow
def test_every_suite_end_to_end(evaluate, reading_model: Path, data_dir: Path, tmp_path: Path):
    out = tmp_path / "out"
    model = shutil.copytree(reading_model, tmp_path / "model")
    asked = [
        *(model, "--suite", "paper", "--suite", "humaneval,mbpp,unit-tests"),
        *("--data-dir", data_dir, "--max-tokens", 6, "--output", out, "--plain"),
        *("--set", "torch_threads=1", "--set", "rollout.backend=transformers"),
    ]
    code, said = evaluate(*asked)
    assert code == 0, said
    results = json.loads((out / "results.json").read_text())
    assert list(results["suites"]) == [
        *("cruxeval-input", "cruxeval-output", "aider-polyglot", "defects4j"),
        *("commit-messages", "humaneval", "mbpp", "unit-tests"),
    ]
    for name, result in results["suites"].items():
        if name == "defects4j":
            assert "get a list of bugs" in result["not_run"]["all of it"]
            continue
        lines = (out / name / "samples.jsonl").read_text().splitlines()
        assert len(lines) == result["questions"] > 0
        assert f"{name}: {result['questions']} questions" in said
        for metric, found in result["metrics"].items():
            assert found["examples"] == result["questions"]
            assert any(line.split()[:2] == [name, metric] for line in said.splitlines())
    # A failed first try was followed by a second one, which was shown why.
    sample = json.loads((out / "aider-polyglot" / "samples.jsonl").read_text())
    assert len(sample["turns"]) == 2
    assert results["paper"]["mean_of_10"] is None
    assert "mean of 10 metrics: unknown: 3 not measured, 2 in part" in said
    assert results["suites"]["mbpp"]["rows"] == 2
    assert results["suites"]["mbpp"]["questions"] == 1

    before = (out / "results.json").read_bytes()
    code, said = evaluate(*asked)
    assert code == 1
    assert "holds an evaluation already; give --resume" in said.splitlines()[-1]
    code, said = evaluate(*asked, "--resume")
    assert code == 0, said
    assert (out / "results.json").read_bytes() == before
    code, said = evaluate(*asked, "--resume", "--seed", 1)
    assert "other settings: seed: 0 -> 1" in said.splitlines()[-1]
    with (model / "chat_template.jinja").open("a") as template:
        template.write("!")
    code, said = evaluate(*asked, "--resume")
    assert code == 1
    assert "other settings: chat_template: " in said.splitlines()[-1]
