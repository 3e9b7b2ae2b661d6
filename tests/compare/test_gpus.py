"""How GPUs are counted and divided; what a unit sees of them is in test_running."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from astor_rl.compare import gpus
from astor_rl.errors import DependencyError

EIGHT = [str(i) for i in range(8)]


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        ("0,1", ["0", "1"]),
        ("GPU-8a, MIG-3", ["GPU-8a", "MIG-3"]),
        ("3", ["3"]),
        ("", []),
        ("-1", []),
        ("2,-1,3", ["2"]),
    ],
)
def test_named_gpus_are_those_the_driver_would_give(named: str, seen: list[str]) -> None:
    assert gpus.visible({gpus.VARIABLE: named}) == seen


def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVERS", ("/nonexistent/driver",))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert gpus.visible({}) == []


def test_with_a_driver_torch_counts_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpus, "_DRIVERS", (str(tmp_path),))
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = staticmethod(lambda: 3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpus.visible({}) == ["0", "1", "2"]
    (tmp_path / "torch.py").write_text("raise OSError('driver too old')\n")
    with pytest.raises(DependencyError, match=r"count .* OSError: driver too old\. Name them in"):
        gpus.visible({})


@pytest.mark.parametrize(
    ("count", "jobs", "parts", "said"),
    [
        (8, 4, [("0", "1"), ("2", "3"), ("4", "5"), ("6", "7")], "2 of 8 GPUs each"),
        (8, 3, [("0", "1"), ("2", "3"), ("4", "5")], "2 of 8 GPUs each, 2 idle: jobs doesn't"),
        (2, 2, [("0",), ("1",)], "1 of 2 GPUs each"),
        (2, 3, [("0",), ("1",), ("0",)], "3 runs at once share 2 GPUs"),
        (2, 1, [("0", "1")], ""),
        (0, 2, [(), ()], ""),
    ],
)
def test_gpus_are_divided_evenly(
    count: int, jobs: int, parts: list[tuple[str, ...]], said: str
) -> None:
    assert gpus.divide(EIGHT[:count], jobs) == parts
    remark = gpus.remark(EIGHT[:count], jobs)
    assert remark.startswith(said)
    assert bool(remark) == bool(said)
