"""A finished run, as the commands that read one find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.report.run_folder import RunFolder


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    with RunFolder.create(
        tmp_path / "run", {"model": "tiny", "tasks": [{"name": "io"}]}, resume=False
    ) as folder:
        for step in (1, 2):
            folder.append_receipt(step, {"tasks": {"io": {"share": 1.0, "beta": 0.01 * step}}})
            folder.append_metrics(step, {"time/step": 1.0, "tokens/generated": 50})
    return folder.path
