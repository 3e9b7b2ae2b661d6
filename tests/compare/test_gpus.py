"""How GPUs are counted and divided; what a unit sees of them is in test_running."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from astor_rl.compare import gpus
from astor_rl.compare.gpus import Gpus, Place
from astor_rl.errors import DependencyError

TORCH = """
print("Loading a shim")
class cuda:
    device_count = staticmethod(lambda: {count})
class version:
    hip = {hip!r}
"""


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Found:
    """A machine with a driver, and a torch that finds so many GPUs there."""
    monkeypatch.setattr(gpus, "_DRIVERS", (str(tmp_path),))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    return Found(tmp_path / "torch.py")


class Found:
    def __init__(self, module: Path) -> None:
        self._module = module

    def say(self, count: object, *, hip: str | None = None) -> None:
        self._module.write_text(TORCH.format(count=count, hip=hip))


def test_without_a_driver_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVERS", ("/nonexistent/driver",))
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert gpus.visible() == Gpus()


def test_what_torch_finds_has_numbers(found: Found) -> None:
    found.say(3)
    assert gpus.visible() == Gpus(("0", "1", "2"))


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [
        ("2,5", 2, ("2", "5")),
        ("GPU-8a, MIG-3", 2, ("GPU-8a", "MIG-3")),
        ("", 0, ()),
        # Names that are none, and what comes after them, are not what torch finds.
        ("0,x,1", 1, ("0",)),
        ("0,0", 0, ()),
        ("all", 0, ()),
    ],
)
def test_of_named_ones_those_count_that_torch_finds(
    found: Found, monkeypatch: pytest.MonkeyPatch, given: str, count: int, names: tuple[str, ...]
) -> None:
    found.say(count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus.visible() == Gpus(names)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, ("0", "1")),
        ({"HIP_VISIBLE_DEVICES": "4,6"}, ("4", "6")),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, ("3", "1")),
        ({"HIP_VISIBLE_DEVICES": "4,6", "CUDA_VISIBLE_DEVICES": "3,1"}, ("4", "6")),
    ],
)
def test_on_amd_the_variable_that_torch_heeds_first_is_set(
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    names: tuple[str, ...],
) -> None:
    found.say(2, hip="6.4")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert gpus.visible() == Gpus(names, "HIP_VISIBLE_DEVICES")


def test_a_torch_of_the_working_folder_is_not_asked(
    found: Found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found.say(1)
    here = tmp_path / "here"
    here.mkdir()
    (here / "torch.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(here)
    assert gpus.visible() == Gpus(("0",))


def test_a_torch_that_cannot_count_is_quoted(
    found: Found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found.say("'two'")
    with pytest.raises(DependencyError, match=r"count .* it said: two False\. Set jobs = 1"):
        gpus.visible()
    (tmp_path / "torch.py").write_text("raise OSError('driver too old')")
    with pytest.raises(DependencyError, match=r"it said: OSError: driver too old\."):
        gpus.visible()
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(gpus, "_PATIENCE_S", 0.5)
    with pytest.raises(DependencyError, match="it said: nothing in 0 s"):
        gpus.visible()


@pytest.mark.parametrize(
    ("count", "jobs", "parts", "said"),
    [
        (8, 4, ["0,1", "2,3", "4,5", "6,7"], "2 of 8 GPUs each"),
        (8, 3, ["0,1", "2,3", "4,5"], "2 of 8 GPUs each, 2 idle: jobs doesn't divide 8"),
        (2, 2, ["0", "1"], "1 of 2 GPUs each"),
        (2, 3, ["0", "1", "0"], "3 runs at once share 2 GPUs"),
        (1, 2, ["0", "0"], "2 runs at once share 1 GPU"),
    ],
)
def test_gpus_are_divided_evenly(count: int, jobs: int, parts: list[str], said: str) -> None:
    there = Gpus(tuple(str(i) for i in range(count)), "VARIABLE")
    assert gpus.divide(there, jobs) == [Place("VARIABLE", part) for part in parts]
    assert gpus.remark(there, jobs) == said


@pytest.mark.parametrize(("count", "jobs"), [(2, 1), (0, 2)])
def test_alone_or_without_gpus_all_stays_as_it_is(count: int, jobs: int) -> None:
    there = Gpus(tuple(str(i) for i in range(count)))
    assert gpus.divide(there, jobs) == [Place()] * jobs
    assert gpus.remark(there, jobs) == ""
