"""Run folders for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from astor_rl.report.run_folder import RunFolder

CONFIG: dict[str, Any] = {
    "model": "tiny",
    "seed": 1,
    "max_steps": 6,
    "tasks": [{"name": "io", "ratio": 1.0}, {"name": "commit", "ratio": 2.0}],
}


def receipt(step: int) -> dict[str, Any]:
    share = 0.5 + 0.05 * step
    return {
        "phase": "warmup" if step < 2 else "scheduled",
        "snapshot_revision": step,
        "tasks": {
            "io": {"share": share, "prompts": 8, "beta": 0.001 * (step + 1)},
            "commit": {"share": 1 - share, "prompts": 8, "beta": 0.002},
        },
        "notes": [],
    }


def metrics(step: int) -> dict[str, Any]:
    return {
        "task/io/reward": 0.1 * step,
        "task/commit/kl": float("nan"),
        "tokens/generated": 1000,
        "time/step": 10.0,
        "time/rollout": 5.0,
        "time/reward": 1.0,
        "time/update": 3.0,
        "time/coordination": 0.5,
    }


def task_result(scores: dict[str, float], se: float | None) -> dict[str, Any]:
    return {
        "outcome": sum(scores.values()) / len(scores),
        "outcome_se": se,
        "examples": len(scores),
        "per_example": scores,
    }


def train_steps(folder: RunFolder, steps: range) -> None:
    """What an engine records, timings excepted."""
    for step in steps:
        folder.append_receipt(step, receipt(step))
        folder.append_metrics(step, metrics(step))
        folder.append_samples(step, [{"task": "io", "text": f"s{step}"}, {"task": "commit"}])
        folder.append_event("note", step=step, text="ran")
        folder.sync()


@pytest.fixture
def config() -> dict[str, Any]:
    return dict(CONFIG)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., RunFolder]]:
    made: list[RunFolder] = []

    def create(
        name: str = "run", *, resume: bool = False, accept: bool = True, **changes: Any
    ) -> RunFolder:
        made.append(RunFolder.create(tmp_path / name, {**CONFIG, **changes}, resume=resume))
        if accept:
            made[-1].accept()
        return made[-1]

    yield create
    for folder in made:
        folder.close()


@pytest.fixture
def finished(make: Callable[..., RunFolder]) -> Path:
    """A whole run: evaluations before and after, six steps."""
    folder = make()
    folder.save_evaluation(
        "before_warmup", {"io": task_result({"a": 0.0, "b": 0.0, "c": 0.0}, 0.0)}
    )
    before = {
        "io": task_result({"a": 0.0, "b": 0.5, "c": 1.0}, 0.29),
        "commit": task_result({"x": 0.2, "y": 0.4}, 0.1),
    }
    after = {
        "io": task_result({"a": 0.3, "b": 0.8, "c": 1.0}, 0.21),
        "commit": task_result({"x": 0.3, "z": 0.7}, 0.2),
    }
    folder.save_evaluation("before_rl", before, step=0)
    train_steps(folder, range(6))
    folder.save_evaluation("after_rl", after, step=6)
    folder.close()
    return folder.path


@pytest.fixture
def train() -> Callable[[RunFolder, range], None]:
    return train_steps


@pytest.fixture
def result() -> Callable[[dict[str, float], float | None], dict[str, Any]]:
    return task_result
