"""Processes that make units: forked from one that has already loaded what all of them need.

Loading torch and transformers takes seconds, which a comparison of many short runs would pay for
each. A unit's process ends with the comparison's, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from astor_rl.compare.gpus import Place, see
from astor_rl.compare.units import Unit
from astor_rl.engines.local.interrupts import ASKS, INSIST, obey_parent
from astor_rl.engines.local.launch import end_with_parent

Work = Callable[[Unit], int]
"""Makes a unit in a process of its own, writing to its standard output; returns an exit code.
Importable by its name."""


class Worker:
    """One process that makes one unit.

    Attributes:
        unit: what it makes.
        place: which of the places for runs at once it takes.
    """

    def __init__(self, unit: Unit, process: ForkServerProcess, place: int) -> None:
        self.unit = unit
        self.place = place
        self._process = process
        self._begun = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether it hasn't ended."""
        return self._process.exitcode is None

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._begun

    @property
    def sentinel(self) -> int:
        """Becomes ready when it ends."""
        return self._process.sentinel

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it, so that it could not say why."""
        return (self._process.exitcode or 0) < 0

    def verdict(self) -> str:
        """Empty when it succeeded, else how it ended."""
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"exit code {code}" if code else ""
        hint = "; the usual reason is too little memory" if -code == signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.running and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.running:
            self._process.kill()
        self._process.join()
        self._process.close()


class Workshop:
    """Starts workers.

    Args:
        work: makes a unit.
        preload: modules to load once, before the first.
        places: for each place for runs at once what its units see of the GPUs; empty: all.
    """

    def __init__(
        self,
        work: Work,
        *,
        preload: Sequence[str] = (),
        places: Sequence[Place] = (),
    ) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._work = work
        self._places = places

    def start(self, unit: Unit, place: int) -> Worker:
        """Begin to make a unit."""
        unit.log.parent.mkdir(parents=True, exist_ok=True)
        _start_server()
        seen = self._places[place] if self._places else Place()
        process = self._context.Process(target=_entry, args=(self._work, unit, unit.log, seen))
        process.start()
        return Worker(unit, process, place)


def _start_server() -> None:
    """Start the process to fork from, if there is none yet, deaf to requests to stop.

    A scheduler's SIGTERM to all processes would end it, and with it all news of its children.
    These inherit the mask, so that nothing reaches them before they have their handlers.
    """
    # Else the server's start would start it, which unblocks the signals that are held back.
    resource_tracker.ensure_running()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, (*ASKS, INSIST))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def wait_for_any(workers: Sequence[Worker], seconds: float) -> None:
    """Until one has ended, or the time is over."""
    wait([worker.sentinel for worker in workers], seconds)


def ask(workers: Sequence[Worker], level: int) -> None:
    """Tell workers to stop: 1 after their step with a checkpoint, 2 at once, 3 by force; 0: no."""
    if not level:
        return
    number = {1: signal.SIGTERM, 2: INSIST}.get(level, signal.SIGKILL)
    for worker in workers:
        worker.send(number)


def _entry(work: Work, unit: Unit, log: Path, place: Place) -> None:
    threading.Thread(target=end_with_parent, name="end with parent", daemon=True).start()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    see(place)  # torch is loaded, but nobody has asked the driver yet
    try:
        obey_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ASKS, INSIST))
        code = work(unit)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
