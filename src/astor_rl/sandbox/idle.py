"""Notices a job that only sleeps, so that it does not hold a worker until its wall-clock deadline.

A job may be several processes, of which some wait for the others: it sleeps when all of them do.

Slowness is no criterion: on a loaded machine a job waits for a processor, and the kernel counts
that as time on a run queue (`/proc/<pid>/task/<tid>/schedstat`: nanoseconds run, nanoseconds
waited). A job is asleep when every thread is in state `S` at each look and run and wait together
stay below 5 % for two seconds. Waiting for a disk is state `D` and starts the time anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.5
"""Seconds between looks."""
ASLEEP_S: Final = 2.0
"""Seconds of sleep after which a job is given up."""
_BUSY: Final = 0.05
_ASLEEP: Final = ("S", "Z")
"""States of threads that do nothing: asleep, and ended but not yet waited for."""
_GAP_S: Final = 3 * LOOK_S


class IdleWatch:
    """Looks at one process and all below it, given by a descriptor (pidfd), which it closes."""

    def __init__(self, pidfd: int) -> None:
        self._threads: Path | None = None
        self._since = self._last = time.monotonic()
        self._busy: int | None = None
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
                name, _, pid = line.partition(":")
                if name == "Pid" and int(pid) > 0:  # else it is not in our namespace
                    self._threads = Path(f"/proc/{int(pid)}/task")
        os.close(pidfd)

    def restart(self) -> None:
        """Something happened: the time starts anew."""
        self._busy = None

    def asleep(self) -> bool:
        """Look once; whether it has slept for `ASLEEP_S` now."""
        now, busy = time.monotonic(), self._look()
        late, self._last = now - self._last > _GAP_S, now
        if busy is None or self._busy is None or late or not self._quiet(busy - self._busy):
            self._since, self._busy = now, busy
        return self._busy is not None and now - self._since >= ASLEEP_S

    @staticmethod
    def _quiet(nanoseconds: int) -> bool:
        return 0 <= nanoseconds < _BUSY * ASLEEP_S * 1e9  # less than 0: a thread has ended

    def _look(self) -> int | None:
        """Nanoseconds its threads ran or wanted to run, None unless all sleep."""
        if self._threads is None:
            return None
        busy = 0
        waiting = [self._threads]
        try:
            for threads in waiting:  # grows while it is walked
                for thread in threads.iterdir():
                    state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in _ASLEEP:
                        return None
                    ran, waited, *_ = (thread / "schedstat").read_text().split()
                    busy += int(ran) + int(waited)
                    children = (thread / "children").read_text().split()
                    waiting += (Path(f"/proc/{pid}/task") for pid in children)
        except (OSError, ValueError):  # gone, or a kernel that doesn't count
            return None
        return busy
