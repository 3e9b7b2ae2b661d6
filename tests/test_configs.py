"""Every run file that is shipped loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.compare.spec import load_comparison
from astor_rl.compare.units import plan_units
from astor_rl.config import load_config

SHIPPED = sorted((Path(__file__).parents[1] / "configs").rglob("*.toml"))
COMPARISONS = [path for path in SHIPPED if path.stem.startswith("compare")]
CONFIGS = [path for path in SHIPPED if path not in COMPARISONS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path: Path) -> None:
    config = load_config(path)
    assert {task.task for task in config.tasks} == {
        "io_prediction",
        "code_generation",
        "unit_test_generation",
        "commit_message",
    }


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_shipped_comparisons_can_be_planned(path: Path) -> None:
    comparison = load_comparison(path)
    units = plan_units(comparison, base_dir=path.parent)
    assert {unit.arm for unit in units} == {"start", *(arm.name for arm in comparison.arms)}


def test_there_are_shipped_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"quickstart", "shared-data"}
