"""Runs units, several at once, each when what it needs is there; stops and goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from astor_rl.compare import records
from astor_rl.compare.progress import Tail, Work, describe, seconds_left
from astor_rl.compare.units import Unit
from astor_rl.compare.workers import Worker, Workshop, ask, wait_for_any
from astor_rl.engines.local.interrupts import hearing
from astor_rl.report import text
from astor_rl.report.console import Console

_TICK_S = 1.0
_STAGE = "Comparing"


@dataclass(slots=True)
class Outcome:
    """How running the units ended.

    Attributes:
        failed: by unit, why: its log's last line, or the unit it needed.
        interrupted: whether someone asked to stop before all was done.
    """

    failed: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


class Runner:
    """Makes every unit that isn't finished.

    Args:
        units: in the order to take them.
        workshop: makes them.
        jobs: how many at once.
        console: told what is going on.
    """

    def __init__(
        self, units: Sequence[Unit], *, workshop: Workshop, jobs: int, console: Console
    ) -> None:
        self._units = list(units)
        self._workshop = workshop
        self._jobs = jobs
        self._console = console
        self._finished = {unit.name for unit in units if records.is_finished(unit)}
        self._spent = {
            unit.name: Work(records.seconds_spent(unit), unit.tokens, unit.tokens)
            for unit in units
            if unit.name in self._finished
        }
        self._workers: list[Worker] = []
        self._tails: dict[str, Tail] = {}
        self._level = 0
        self._said = False
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Until all are made or failed, or someone asks to stop (Ctrl-C, SIGTERM).

        The first request lets each running unit end its step and save; the second stops them at
        once, the third kills them.
        """
        left = len(self._units) - len(self._finished)
        self._console.stage(
            _STAGE, f"{left} of {len(self._units)} units to do, {self._jobs} at once"
        )
        with hearing(self._hear):
            try:
                self._work()
            finally:
                for worker in self._workers:
                    worker.close()
        self._outcome.interrupted = self._level > 0
        return self._outcome

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._level += 1
        ask(self._workers, self._level)

    def _work(self) -> None:
        while True:
            self._fill()
            if not self._workers:
                return
            self._show()
            wait_for_any(self._workers, _TICK_S)
            self._say_stopping()
            for worker in [worker for worker in self._workers if not worker.running]:
                self._workers.remove(worker)
                self._reap(worker)

    def _say_stopping(self) -> None:
        if self._level and not self._said:
            self._said = True
            self._console.note("stopping after the running steps; once more stops at once")

    def _fill(self) -> None:
        while not self._level and len(self._workers) < self._jobs:
            unit = self._next()
            if unit is None:
                return
            records.begin(unit)
            self._tails[unit.name] = Tail(unit.folder / "metrics.jsonl")
            taken = {worker.place for worker in self._workers}
            place = next(place for place in range(self._jobs) if place not in taken)
            worker = self._workshop.start(unit, place)
            self._workers.append(worker)
            ask([worker], self._level)  # it was not among them if that came while it started

    def _next(self) -> Unit | None:
        """The first unit that can begin; units whose needs failed fail, too."""
        busy = {worker.unit.name for worker in self._workers}
        for unit in self._units:
            if unit.name in self._finished | busy or unit.name in self._outcome.failed:
                continue
            lost = [name for name in unit.needs if name in self._outcome.failed]
            if lost:
                self._fail(unit, f"it needs {lost[0]}, which failed")
            elif self._finished.issuperset(unit.needs):
                return unit
        return None

    def _reap(self, worker: Worker) -> None:
        unit, verdict, seconds = worker.unit, worker.verdict(), worker.seconds
        killed = worker.was_killed
        worker.close()
        records.end(unit, finished=not verdict, seconds=seconds)
        if not verdict:
            self._finished.add(unit.name)
            self._spent[unit.name] = Work(records.seconds_spent(unit), unit.tokens, unit.tokens)
            self._console.note(f"{unit.name} is done in {text.duration(seconds)}")
        elif not self._level:
            said = records.last_line(unit.log)
            if killed and said:  # what it said last is not why
                said = f"{verdict}; it said last: {said}"
            self._fail(unit, f"{said or verdict} (its log: {unit.log})")

    def _fail(self, unit: Unit, why: str) -> None:
        self._outcome.failed[unit.name] = why
        self._console.note(f"{unit.name} failed: {why}")

    def _show(self) -> None:
        running = []
        for worker in self._workers:
            tail = self._tails[worker.unit.name]
            tail.read()
            running.append(describe(worker.unit, tail))
        facts = {"failed": str(len(self._outcome.failed))} if self._outcome.failed else {}
        facts |= {"left": text.duration(self._seconds_left()), "now": "; ".join(running)}
        self._console.progress(_STAGE, len(self._finished), len(self._units), **facts)

    def _seconds_left(self) -> float | None:
        busy = {worker.unit.name for worker in self._workers}
        running = [
            Work(
                worker.seconds + records.seconds_spent(worker.unit),
                self._tails[worker.unit.name].tokens,
                worker.unit.tokens,
            )
            for worker in self._workers
        ]
        waiting = [
            Work(0.0, 0, unit.tokens)
            for unit in self._units
            if unit.name not in self._finished | busy | self._outcome.failed.keys()
        ]
        return seconds_left(
            finished=list(self._spent.values()), running=running, waiting=waiting, jobs=self._jobs
        )
