"""Every run file that is shipped loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.config import load_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path: Path) -> None:
    config = load_config(path)
    assert {task.task for task in config.tasks} == {
        "io_prediction",
        "code_generation",
        "unit_test_generation",
        "commit_message",
    }


def test_there_are_shipped_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"quickstart", "shared-data"}
