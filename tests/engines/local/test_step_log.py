"""What a step's log tells beside the step itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from astor_rl.config import RunConfig
from astor_rl.engines.local import step_log
from astor_rl.engines.local.step_log import StepLog
from astor_rl.report.run_folder import RunFolder


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log whose `notes` are kept, and which shows no steps."""
    block = {"task": "io_prediction", "source": "jsonl:rows.jsonl"}
    config = RunConfig.model_validate(
        {"model": "m", "tasks": [{"name": name, **block} for name in ("io", "code")]}
    )
    monkeypatch.setattr(StepLog, "_view", lambda self, record: None)
    notes: list[str] = []
    console = SimpleNamespace(step=lambda view: None, note=notes.append)
    with RunFolder.create(tmp_path / "run", {}, resume=False) as folder:
        log = StepLog(config, folder=folder, console=cast(Any, console), trackers=None)
        yield SimpleNamespace(log=log, notes=notes)


def record(step: int, **invalid: int) -> step_log.StepRecord:
    counts = {f"task/{name}/rollouts/invalid": float(count) for name, count in invalid.items()}
    receipt = SimpleNamespace(as_dict=dict)
    return cast(
        step_log.StepRecord,
        SimpleNamespace(
            step=step,
            metrics={"time/step": 1.0, **counts},
            plan=SimpleNamespace(id=step, receipt=receipt),
            samples=[],
        ),
    )


def test_rollouts_nobody_could_judge_are_told_of_once_a_task(told: Any) -> None:
    told.log.add(record(1, io=0))
    assert told.notes == []
    told.log.add(record(2, io=16, code=0))
    told.log.add(record(3, io=16, code=3))
    assert [note.split(" could")[0] for note in told.notes] == [
        "task io: 16 rollouts of step 2",
        "task code: 3 rollouts of step 3",
    ]
