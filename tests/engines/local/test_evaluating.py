"""`astor eval` with a real model: the run's own, and any other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Astor = Callable[..., "subprocess.Popen[str]"]


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate()
    return process.returncode, said


def evaluation(astor: Astor, out: Path, *arguments: str) -> dict[str, Any]:
    code, said = finish(astor("eval", *arguments, "--output", str(out)))
    assert code == 0, said
    read: dict[str, Any] = json.loads(out.read_text())
    for name, result in read["tasks"].items():
        assert f"{name}: outcome {result['outcome']:.3f} ± " in said, said
    return read


@pytest.mark.slow
def test_a_model_and_a_run_are_evaluated_alike(
    astor: Astor, tiny_run: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    config = str(tiny_run(max_steps=1, data={"test_share": 0.4}))
    before = evaluation(astor, tmp_path / "before.json", str(tiny_model), "--config", config)
    again = evaluation(astor, tmp_path / "again.json", str(tiny_model), "--config", config)
    assert before == again
    assert list(before["tasks"]) == ["first", "second"]
    assert all(result["examples"] == 2 for result in before["tasks"].values())

    run = tmp_path / "run"
    code, said = finish(astor("eval", str(run)))
    assert code == 2, said
    code, said = finish(astor("train", config, "--plain"))
    assert code == 0, said
    after = evaluation(astor, tmp_path / "after.json", str(run))
    trained = json.loads((run / "eval" / "after_rl.json").read_text())
    # The same examples as the run's own evaluation looked at, so that they can be paired.
    for name, result in after["tasks"].items():
        assert result["per_example"].keys() == trained["tasks"][name]["per_example"].keys()

    few = evaluation(astor, tmp_path / "few.json", str(run), "--set", "eval.examples=3")
    assert all(result["examples"] == 3 for result in few["tasks"].values())


def test_what_cannot_be_evaluated_is_named(
    astor: Astor, tiny_run: Callable[..., Path], tiny_model: Path
) -> None:
    code, said = finish(astor("eval", str(tiny_model)))
    assert code == 2
    assert said.splitlines()[-1].endswith("say what to evaluate it on: --config run.toml")
    config = str(tiny_run(model="unused"))
    code, said = finish(astor("eval", "no-such-model", "--config", config))
    assert code == 1
    assert said.splitlines()[-1].startswith("error: model 'no-such-model'")
