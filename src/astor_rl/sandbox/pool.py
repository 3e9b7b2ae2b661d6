"""A pool of sandboxed workers: `ProcessPool` implements `SandboxPool`.

Each worker is a thread that owns at most one zygote of each profile (`worker.Profile`) and runs
one job at a time. Threads, not an event loop, because jobs come from several loops and threads
at once, and because a zygote dies with the thread that started it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final, Self

from astor_rl.errors import SandboxError
from astor_rl.sandbox import probe, protections, runs, worker
from astor_rl.sandbox.api import Job, Limits, Outcome
from astor_rl.sandbox.ordered import in_order
from astor_rl.sandbox.worker import Profile, Run, Zygote, ZygoteDied

RECYCLE_AFTER: Final = 2000
"""Jobs after which a zygote is replaced by a fresh one."""
READ_AHEAD: Final = 4
"""Jobs a worker that `map` starts before their results are taken."""
_ATTEMPTS: Final = 2
_CLOSED: Final = "the sandbox pool was closed"
_STARTS: Final = 5
"""Failed starts in a row after which a zygote is given up."""
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0


class ProcessPool:
    """Runs untrusted code in worker processes. Thread-safe; use as a context manager.

    Workers start with their first job, all in parallel, from a small exec'd interpreter: a trainer
    of many GiB is never forked. See `inside.jail` for the walls.

    The queue has no bound of its own: `submit` ends with its job, so whoever waits for it is held
    back, and a queue that made callers wait elsewhere would hold no fewer jobs. `map` reads ahead
    by `READ_AHEAD` jobs a worker.

    Args:
        workers: jobs at a time; the number of usable CPUs by default.
        allow_missing: protections (names of `protections.GUARANTEES`) whose absence is accepted.
        preload: modules to import once for all jobs (`("numpy",)`); what is installed beside them
            becomes importable for jobs.

    Raises:
        SandboxError: a protection is missing on this machine and not allowed to be.
        DependencyError: a module of `preload` isn't installed.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        allow_missing: Sequence[str] = (),
        preload: Sequence[str] = (),
    ) -> None:
        protections.check_names(allow_missing)
        probe.check(tuple(allow_missing))
        worker.package_paths(preload, "")
        count = len(os.sched_getaffinity(0)) if workers is None else workers
        if count < 1:
            raise SandboxError(f"workers is {count}; it must be at least 1")
        self.workers = count
        self._crew = _Crew(count, tuple(allow_missing), tuple(preload))
        self._finalizer = weakref.finalize(self, self._crew.close)

    async def submit(self, job: Job) -> Outcome:
        """Run one job. Never raises for what the job's code does.

        Raises:
            SandboxError: the pool is closed, or a worker can't be started safely.
        """
        return await asyncio.wrap_future(self._crew.enqueue(job))

    def map(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Run many, results in the order of the jobs, with bounded read-ahead."""
        return in_order(jobs, self._crew.enqueue, READ_AHEAD * self.workers)

    def close(self) -> None:
        """Kill everything and wait until it is gone. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_Item = tuple[Job, "Future[Outcome]"]


class _Crew:
    """The worker threads and their queue, apart from the pool so that it can be collected."""

    def __init__(self, count: int, allowed: tuple[str, ...], preload: tuple[str, ...]) -> None:
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._count = count
        self._allowed = allowed
        self._preload = preload
        self._members: list[_Member] = []
        self._owner = os.getpid()

    def enqueue(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox pool is closed")
            if not self._members:
                self._members = [
                    _Member(self._queue, slot, self._allowed, self._preload)
                    for slot in range(self._count)
                ]
            self._queue.put((job, future))
        return future

    def close(self) -> None:
        if os.getpid() != self._owner:  # a fork of the trainer shares the sockets, not the threads
            return
        with self._lock:
            self._closed = True
            members, self._members = self._members, []
        for member in members:
            member.stop()
        for _ in members:
            self._queue.put(None)
        for member in members:
            if member.thread is not threading.current_thread():  # the collector may run there
                member.thread.join()
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if item is not None and item[1].set_running_or_notify_cancel():
                item[1].set_exception(SandboxError(_CLOSED))


class _Member:
    """One worker thread with its zygotes."""

    def __init__(
        self,
        jobs: queue.SimpleQueue[_Item | None],
        slot: int,
        allowed: tuple[str, ...],
        preload: tuple[str, ...],
    ) -> None:
        self._queue = jobs
        self._allowed = allowed
        self._preload = preload
        self._zygotes: dict[Profile, Zygote] = {}
        self._stopped = threading.Event()
        self._failed_starts = 0  # since the last that succeeded
        self._deaths = 0  # since the last job that was done
        self.thread = threading.Thread(target=self._work, name=f"sandbox-{slot}", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the running job, if any, at once."""
        self._stopped.set()
        for zygote in list(self._zygotes.values()):
            zygote.abort()

    def _work(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                job, future = item
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    outcome = runs.execute(job, self._run, self._preload)
                except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                    future.set_exception(error)
                else:
                    future.set_result(outcome)
                del item, job, future
        finally:
            for zygote in self._zygotes.values():
                zygote.close()

    def _run(self, profile: Profile, job: dict[str, Any], limits: Limits) -> tuple[Run, str]:
        """One child's run and the tier it had; infrastructure failures are retried once.

        Raises:
            runs.InfraError: the zygote failed each time.
            SandboxError: none can be started, or the pool was closed.
        """
        failure = ""
        for _ in range(_ATTEMPTS):
            zygote = self._zygote(profile)
            self._go_on()  # `stop` can't have seen a zygote that was starting
            try:
                run = zygote.run(job, limits)
            except (ZygoteDied, OSError) as error:  # of the latter: no descriptors, no memory
                self._deaths += 1
                failure = str(error)
            else:
                self._deaths = 0
                return run, zygote.tier
        self._go_on()
        raise runs.InfraError(failure)

    def _zygote(self, profile: Profile) -> Zygote:
        zygote = self._zygotes.get(profile)
        if zygote is not None and (zygote.closed or zygote.jobs >= RECYCLE_AFTER):
            del self._zygotes[profile]
            zygote.close()
            zygote = None
        if zygote is None:
            zygote = self._zygotes[profile] = self._start(profile)
        return zygote

    def _start(self, profile: Profile) -> Zygote:
        """A new zygote; the sicker the last ones were, the later.

        Raises:
            SandboxError: it can't be started again and again, or the pool was closed.
        """
        while True:
            self._rest()
            try:
                zygote = Zygote(profile, self._allowed)
            except (ZygoteDied, OSError) as error:
                self._failed_starts += 1
                if self._failed_starts >= _STARTS:
                    raise SandboxError(
                        f"a sandbox process failed to start {self._failed_starts} times in a row: "
                        f"{error}"
                    ) from error
            else:
                self._failed_starts = 0
                return zygote

    def _rest(self) -> None:
        sick = self._failed_starts + self._deaths
        pause = min(_FIRST_PAUSE_S * 2 ** min(sick, 10), _LONGEST_PAUSE_S) if sick else 0.0
        self._stopped.wait(pause)
        self._go_on()

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise SandboxError(_CLOSED)
