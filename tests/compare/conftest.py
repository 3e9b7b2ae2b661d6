"""A run file whose sources exist, and compare files for it; nothing is trained here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from astor_rl.compare import records
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.units import AFTER, BEFORE, LAST, Unit, plan_units
from astor_rl.report.atomic import write_json

# A worker's process imports what it is to do by its name.
sys.path.insert(0, str(Path(__file__).parent))

ARMS = [{"name": "astor"}, {"name": "joint", "set": {"schedule.method": "uniform"}}]


@pytest.fixture
def run_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the base's run file; keyword arguments change or add keys."""
    for name in ("io", "code"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}"}}\n')

    def write(**changes: Any) -> Path:
        raw: dict[str, Any] = {
            "model": str(tmp_path / "model"),
            "max_steps": 50,
            "eval": {"examples": 4, "every": 5},
            "tasks": [
                {"name": "io", "task": "io_prediction", "source": "jsonl:io.jsonl"},
                {"name": "code", "task": "code_generation", "source": "jsonl:code.jsonl"},
            ],
        }
        path = tmp_path / "run.json"
        path.write_text(json.dumps({**raw, **changes}))
        return path

    write()
    return write


@pytest.fixture
def compare(tmp_path: Path, run_file: Callable[..., Path]) -> Callable[..., CompareConfig]:
    """A comparison of that run file; keyword arguments change or add keys."""

    def make(**changes: Any) -> CompareConfig:
        raw: dict[str, Any] = {
            "base": "run.json",
            "output_dir": str(tmp_path / "out"),
            "seeds": [0, 1],
            "max_tokens": 1000,
            "arms": ARMS,
        }
        return CompareConfig.model_validate({**raw, **changes})

    return make


@pytest.fixture
def plan(tmp_path: Path, compare: Callable[..., CompareConfig]) -> Callable[..., dict[str, Unit]]:
    """Its units by name; keyword arguments as for `compare`."""

    def units(**changes: Any) -> dict[str, Unit]:
        found = plan_units(compare(**changes), base_dir=tmp_path)
        return {unit.name: unit for unit in found}

    return units


def scored(outcomes: Mapping[str, float]) -> dict[str, Any]:
    """An evaluation with these outcomes, each of two examples that came out 0.01 apart."""
    return {
        "tasks": {
            task: {"outcome": o, "per_example": {"a": o - 0.005, "b": o + 0.005}}
            for task, o in outcomes.items()
        }
    }


@pytest.fixture
def finish() -> Callable[..., None]:
    """Leave in a unit's folder what a finished one leaves.

    `test`: its final scores by task (of a start: those before RL). `curve`: looks at the
    validation split, step -> scores; `tokens` are sampled in each step.
    """

    def leave(
        unit: Unit,
        test: Mapping[str, float],
        curve: Mapping[int, Mapping[str, float]] | None = None,
        *,
        tokens: int = 100,
    ) -> None:
        curve = curve or {0: test, 10: test}
        write_json(records.evaluation_file(unit, AFTER), scored(test))
        if unit.kind == "merge":
            write_json(records.evaluation_file(unit, LAST), scored(curve[max(curve)]))
        elif unit.kind == "start":
            write_json(records.evaluation_file(unit, BEFORE), scored(test))
        else:
            for name in ("config.json", "versions.json"):
                write_json(unit.folder / name, {})
            lines = [{"step": s + 1, "tokens/generated": tokens} for s in range(max(curve))]
            text = "".join(json.dumps(record) + "\n" for record in lines)
            (unit.folder / "metrics.jsonl").write_text(text)
            for step, scores in curve.items():
                write_json(records.evaluation_file(unit, f"step_{step}"), scored(scores))
        records.end(unit, finished=True, seconds=1.0)

    return leave
