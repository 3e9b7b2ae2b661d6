"""Units in real processes: order, failures, requests to stop, and nobody left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import unit_work

from astor_rl.compare import records
from astor_rl.compare.gpus import Place
from astor_rl.compare.running import Outcome, Runner
from astor_rl.compare.units import AFTER, Unit
from astor_rl.compare.workers import Work, Workshop
from astor_rl.report.console import PlainConsole

Plan = Callable[..., dict[str, Unit]]

ASTOR = {"name": "astor"}
SHARE = {"name": "share", "kind": "specialists", "budget": "share"}
MERGE = {"name": "merging", "kind": "merge", "of": "share"}
BROKEN = {"name": "broken", "kind": "specialists"}
OF_BROKEN = {"name": "merged", "kind": "merge", "of": "broken"}


def make(units: Iterable[Unit], work: Work, *, jobs: int = 2) -> tuple[Outcome, str]:
    said = io.StringIO()
    console = PlainConsole(said, progress_every_s=0.0)
    workshop = Workshop(work, preload=["astor_rl.compare.running"])
    outcome = Runner(list(units), workshop=workshop, jobs=jobs, console=console).run()
    return outcome, said.getvalue()


def result(unit: Unit) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(records.evaluation_file(unit, AFTER).read_text())
    return found


def test_units_at_once_see_gpus_of_their_own(plan: Plan):
    """Two places: while both are taken, their units see different ones."""
    units = list(plan(arms=[ASTOR, SHARE, MERGE]).values())
    console = PlainConsole(io.StringIO(), progress_every_s=0.0)
    workshop = Workshop(
        unit_work.tell_gpus, places=[Place("CUDA_VISIBLE_DEVICES", gpus) for gpus in ("4,5", "6,7")]
    )
    Runner(units, workshop=workshop, jobs=2, console=console).run()
    spans = [result(unit) for unit in units]
    assert {span["gpus"] for span in spans} == {"4,5", "6,7"}
    for one in spans:
        for other in spans:
            at_once = one["began"] < other["at"] and other["began"] < one["at"]
            assert one is other or not at_once or one["gpus"] != other["gpus"]


def test_all_are_made_once_and_after_what_they_need(plan: Plan):
    units = plan(arms=[ASTOR, SHARE, MERGE])
    outcome, said = make(units.values(), unit_work.finish)
    assert outcome == Outcome()
    for unit in units.values():
        assert records.is_finished(unit)
        assert all(result(units[name])["at"] < result(unit)["at"] for name in unit.needs)
        assert unit.log.read_text() == f"making {unit.name}\n"
        assert f"note: {unit.name} is done" in said
    assert "10 of 10 units to do, 2 at once" in said

    _, said = make(units.values(), unit_work.finish)
    assert "0 of 10 units to do" in said
    assert {result(unit)["times"] for unit in units.values()} == {1}


def test_more_arms_and_seeds_keep_what_is_there(plan: Plan):
    make(plan(seeds=[0]).values(), unit_work.finish)
    more = plan(
        seeds=[0, 1], arms=[ASTOR, {"name": "joint", "set": {"schedule.method": "uniform"}}, SHARE]
    )
    records.check_unchanged(list(more.values()))
    make(more.values(), unit_work.finish)
    assert {result(unit)["times"] for unit in more.values()} == {1}


def test_one_that_fails_is_named_and_the_others_go_on(plan: Plan):
    units = plan(arms=[BROKEN, ASTOR, OF_BROKEN], seeds=[0])
    outcome, said = make(units.values(), unit_work.finish)
    assert not outcome.interrupted
    assert outcome.failed.keys() == {"broken/seed-0/io", "broken/seed-0/code", "merged/seed-0"}
    log = units["broken/seed-0/io"].log
    assert outcome.failed["broken/seed-0/io"] == f"error: something is wrong (its log: {log})"
    assert outcome.failed["merged/seed-0"].startswith("it needs broken/seed-0/")
    assert "note: broken/seed-0/io failed: error: something is wrong" in said
    assert records.is_finished(units["astor/seed-0"])
    # The next time it is tried again.
    assert not records.is_finished(units["broken/seed-0/io"])
    outcome, said = make(units.values(), unit_work.finish)
    assert "3 of 5 units to do" in said


def test_one_that_is_killed_says_so(plan: Plan):
    units = plan(arms=[BROKEN, ASTOR], seeds=[0])
    outcome, _ = make(units.values(), unit_work.crash)
    assert outcome.failed["broken/seed-0/io"].startswith(
        "ended by SIGKILL; the usual reason is too little memory; it said last: step 12 of 85 (its"
    )


@pytest.mark.parametrize("jobs", [1, 3])
def test_so_many_at_once(plan: Plan, jobs: int):
    units = plan(arms=[ASTOR], seeds=[0, 1, 2, 3])

    def after_they_run() -> None:
        wait_until(lambda: len(pids(units.values())) == jobs)
        os.kill(os.getpid(), signal.SIGINT)

    outcome = in_company(after_they_run, units, unit_work.last, jobs=jobs)
    assert outcome.interrupted
    assert len(pids(units.values())) == jobs


def test_the_first_request_asks_and_nothing_is_left(plan: Plan):
    units = plan(arms=[ASTOR], seeds=[0, 1])

    def ask() -> None:
        wait_until(lambda: len(pids(units.values())) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    outcome = in_company(ask, units, unit_work.last)
    assert outcome == Outcome(interrupted=True)
    running = [unit for unit in units.values() if (unit.folder / "pid").exists()]
    assert all((unit.folder / "asked").exists() for unit in running)
    assert not any(records.is_finished(unit) for unit in running)
    assert not any(alive(pid) for pid in pids(units.values()))


def test_the_third_request_is_force(plan: Plan):
    units = plan(arms=[ASTOR], seeds=[0, 1])

    def insist() -> None:
        wait_until(lambda: len(pids(units.values())) == 2)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # signals of one kind that wait are merged into one

    assert in_company(insist, units, unit_work.stubborn).interrupted
    assert not any(alive(pid) for pid in pids(units.values()))


def in_company(
    beside: Callable[[], None], units: dict[str, Unit], work: Work, *, jobs: int = 2
) -> Outcome:
    """Make units while something else happens in another thread."""
    thread = threading.Thread(target=beside)
    thread.start()
    try:
        return make(units.values(), work, jobs=jobs)[0]
    finally:
        thread.join()


def pids(units: Iterable[Unit]) -> list[int]:
    files = [unit.folder / "pid" for unit in units]
    return [int(text) for file in files if file.exists() and (text := file.read_text())]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")
