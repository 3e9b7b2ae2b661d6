from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from astor_rl.engines.verl.records import Records
from astor_rl.plan import Receipt, StepPlan


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def plan(number: int) -> StepPlan:
    return StepPlan(number, number, (), Receipt("warmup", number, {}))


def test_a_step_is_a_line_of_numbers(tmp_path: Path):
    records = Records(tmp_path)
    records.plan(plan(0))
    metrics = {"a": 1, "b": np.float32(0.5), "c": "text", "d": float("nan"), "task/io/kl": 0.25}
    records.step(1, metrics, {"gen": 2.0, "step": 9.0, "unknown": 1.0})
    assert read(tmp_path / "metrics.jsonl") == [
        {
            "step": 1,
            "a": 1,
            "b": 0.5,
            "d": None,
            "task/io/kl": 0.25,
            "time/rollout": 2.0,
            "time/step": 9.0,
        }
    ]
    (receipt,) = read(tmp_path / "receipts.jsonl")
    assert (receipt["step"], receipt["plan"], receipt["phase"]) == (1, 0, "warmup")


def test_steps_after_the_checkpoint_are_forgotten(tmp_path: Path):
    records = Records(tmp_path)
    for step in (1, 2, 3):
        records.plan(plan(step))
        records.step(step, {"a": step}, {})
    resumed = Records(tmp_path)
    resumed.begin(1)
    resumed.plan(plan(2))
    resumed.step(2, {"a": 20}, {})
    assert [record["a"] for record in read(tmp_path / "metrics.jsonl")] == [1, 20]
    assert [record["plan"] for record in read(tmp_path / "receipts.jsonl")] == [1, 2]


def test_the_record_before_a_checkpoint_is_replaced_by_the_whole_one(tmp_path: Path):
    records = Records(tmp_path)
    records.plan(plan(0))
    records.step(1, {"a": 1}, {})
    records.plan(plan(1))
    records.step(2, {"a": 2}, {})
    records.sync()
    records.step(2, {"a": 2, "b": 3}, {"step": 1.0})
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [1, 2]
    assert read(tmp_path / "metrics.jsonl")[1]["b"] == 3
    assert [record["plan"] for record in read(tmp_path / "receipts.jsonl")] == [0, 1]
