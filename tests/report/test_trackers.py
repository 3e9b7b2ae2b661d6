from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from astor_rl.errors import ConfigError, DependencyError
from astor_rl.report.trackers import Trackers

CONFIG: dict[str, Any] = {"model": "tiny", "tasks": [{"name": "io"}]}


def test_no_trackers_is_fine(tmp_path: Path) -> None:
    trackers = Trackers([], tmp_path, CONFIG, note=pytest.fail)
    trackers.log(0, {"x": 1.0})
    trackers.finish()


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="report_to 'comet' is unknown; use tensorboard, wandb"):
        Trackers(["comet"], tmp_path, CONFIG, note=pytest.fail)


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_package_is_one_line_with_its_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what Python itself does to forbid an import
    with pytest.raises(DependencyError, match=f"needs {name}, .*pip install {name}, or"):
        Trackers([name], tmp_path, CONFIG, note=pytest.fail)


READ = """
import sys, warnings
warnings.simplefilter("ignore")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print(sorted(events.Tags()["scalars"]), [(e.step, e.value) for e in events.Scalars("task/io/kl")])
"""
WRITE = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from astor_rl.report.trackers import Trackers
first, steps = int(sys.argv[2]), int(sys.argv[3])
trackers = Trackers(["tensorboard"], Path(sys.argv[1]), {"model": "tiny"}, note=sys.exit,
                    first_step=first)
for step in range(first, steps):
    trackers.log(step, {"task/io/kl": step * 0.5 + first, "nan": float("nan"), "text": "no"})
trackers.finish()
"""


def test_tensorboard_curves_are_those_of_the_resumed_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the trackers extra is not installed")
    pytest.importorskip("torch", reason="the local extra is not installed")

    def run(program: str, *arguments: object) -> str:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    run(WRITE, tmp_path, 0, 4)
    run(WRITE, tmp_path, 2, 4)  # killed after step 3, resumed from the checkpoint after step 1
    shown = run(READ, tmp_path / "tensorboard")
    assert shown == "['task/io/kl'] [(0, 0.0), (1, 0.5), (2, 3.0), (3, 3.5)]\n"


class Failing:
    """A tracker whose service went away."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        raise ConnectionError("no route\nto host")

    def finish(self) -> None:
        raise AssertionError("a dropped tracker is left alone")


def test_a_tracker_that_fails_is_dropped_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("astor_rl.report.trackers._TRACKERS", {"wandb": lambda *_, **__: Failing()})
    trackers = Trackers(["wandb"], tmp_path, CONFIG, note=notes.append)
    trackers.log(0, {"x": 1.0})
    trackers.log(1, {"x": 1.0})
    trackers.finish()
    assert notes == ["wandb failed and gets nothing more (no route to host); the run goes on"]
