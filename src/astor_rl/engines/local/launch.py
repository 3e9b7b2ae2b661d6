"""Start a run's processes on this machine, pass signals on, and say why they ended.

Nothing here loads torch. The parent only watches: a child reports its error through a pipe, and a
child whose parent is gone ends itself.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from astor_rl.engines.local.interrupts import ASKS, INSIST, hearing, obey_parent
from astor_rl.errors import RankError

NOTICE_S = 5.0
"""After a process failed, how long the others have to notice it themselves."""

UNWIND_S = 30.0
"""After processes were told to stop at once, how long they have before they are killed."""

_TICK_S = 1.0
_RUNNING, _ASKED, _INSISTED, _KILLED = range(4)
_SIGNALS = {_ASKED: signal.SIGTERM, _INSISTED: INSIST, _KILLED: signal.SIGKILL}


def launch(target: Callable[..., None], args: tuple[Any, ...], *, processes: int) -> None:
    """Run `target(*args)` in `processes` processes on this machine and wait for all.

    Each process has torchrun's variables (`RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `MASTER_ADDR`,
    `MASTER_PORT`). When one fails, the others are stopped.

    Ctrl-C or SIGTERM to this process or to all of them asks every process to stop
    (`graceful_stop` there sees one request); a second one interrupts them, a third kills them.
    When this process dies, they end too.

    Args:
        target: importable: it is pickled by its name.
        args: picklable.
        processes: >= 1.

    Raises:
        KeyboardInterrupt: the processes stopped on request.
        RankError: a process was killed, or ended without saying why.
        BaseException: whatever a process raised, as it was, the first that is no consequence of
            another; its traceback is a note on it. One that can't be pickled becomes a
            `RuntimeError` that says its type and text.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    family = _Family(processes)
    with hearing(family.hear):
        try:
            family.start(target, args, port)
            family.watch()
        finally:
            family.end()
    error = family.verdict()
    if error is not None:
        raise error


@dataclass(slots=True)
class _Child:
    """A process and the pipe it reports through."""

    rank: int
    process: SpawnProcess
    reports: Connection
    failed: bool = False

    @property
    def running(self) -> bool:
        return self.process.exitcode is None

    def sources(self) -> list[Any]:
        """What becomes ready when there is news."""
        return [self.process.sentinel] if self.failed else [self.process.sentinel, self.reports]

    def report(self) -> BaseException | None:
        """The error it sent, if it sent one."""
        if not self.reports.poll():
            return None
        try:
            return unpack(self.reports.recv_bytes())
        except (EOFError, OSError):  # ended, perhaps in the middle of a report
            return None


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException
    consequence: bool


class _Family:
    """The processes of one launch, as seen by the parent."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._children: list[_Child] = []
        self._failures: list[_Failure] = []
        self._level = _RUNNING
        self._deadline = math.inf
        self._asked = False
        self._gave_up = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """A request to stop is passed on instead of obeyed."""
        self._asked = True
        self._press(self._level + 1)

    def _press(self, level: int) -> None:
        self._level = min(level, _KILLED)
        if self._level == _INSISTED:
            self._deadline = time.monotonic() + UNWIND_S
        elif self._level == _KILLED:
            self._deadline = math.inf
        self._signal()

    def _signal(self) -> None:
        for child in self._children:
            if child.running and child.process.pid is not None:
                with suppress(ProcessLookupError):  # a handler may interrupt its being reaped
                    os.kill(child.process.pid, _SIGNALS[self._level])

    def start(self, target: Callable[..., None], args: tuple[Any, ...], port: int) -> None:
        """Start every process."""
        context = multiprocessing.get_context("spawn")
        # Else the first start would start it, which unblocks the signals that are held back.
        resource_tracker.ensure_running()
        # A child inherits the mask, so that nothing reaches it before it has its handlers.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (*ASKS, INSIST))
        try:
            for rank in range(self._size):
                reader, writer = context.Pipe(duplex=False)
                place = (rank, self._size, port)
                process = context.Process(target=_entry, args=(place, writer, target, args))
                try:
                    process.start()
                finally:
                    writer.close()
                self._children.append(_Child(rank, process, reader))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if self._level:  # heard by another thread meanwhile: not every child existed
            self._signal()

    def watch(self) -> None:
        """Wait for all, hurrying those that stay behind when one has failed."""
        while running := [child for child in self._children if child.running]:
            # In short waits: a signal's handler may bring the deadline forward during one.
            left = max(0.0, self._deadline - time.monotonic())
            wait([source for child in running for source in child.sources()], min(left, _TICK_S))
            for child in running:
                self._look(child)
            if time.monotonic() >= self._deadline:
                self._gave_up = True
                self._press(max(self._level + 1, _INSISTED))
        for child in self._children:
            self._look(child)

    def _look(self, child: _Child) -> None:
        if child.failed:
            return
        code = child.process.exitcode  # before the pipe: a child reports, then ends
        error = child.report()
        if error is not None:
            self._fail(child, error, consequence=isinstance(error, RankError))
        elif code:
            self._fail(child, RankError(self._obituary(child.rank, code)), consequence=False)

    def _fail(self, child: _Child, error: BaseException, *, consequence: bool) -> None:
        child.failed = True
        self._failures.append(_Failure(error, consequence or self._gave_up))
        if self._level < _INSISTED:
            self._deadline = min(self._deadline, time.monotonic() + NOTICE_S)

    def _obituary(self, rank: int, code: int) -> str:
        who = f"process {rank} of {self._size}"
        if code > 0:
            return f"{who} ended with exit code {code} without saying why"
        name = signal.Signals(-code).name
        hint = "; the usual reason is too little memory" if -code == signal.SIGKILL else ""
        return f"{who} was ended by {name}{hint}"

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for child in self._children:
            if child.running:
                child.process.kill()
            child.process.join()
            child.reports.close()

    def verdict(self) -> BaseException | None:
        """What to raise for all of them."""
        if not self._failures:
            return None
        first = next((f for f in self._failures if not f.consequence), self._failures[0])
        if self._asked and isinstance(first.error, RankError):
            return KeyboardInterrupt()
        return first.error


def _entry(
    place: tuple[int, int, int], reports: Connection, target: Callable[..., None], args: Any
) -> None:
    rank, size, port = place
    threading.Thread(target=end_with_parent, name="end with parent", daemon=True).start()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        obey_parent()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*ASKS, INSIST))
        target(*args)
    except BaseException as error:  # noqa: BLE001 - the parent decides what it means
        reports.send_bytes(pack(error, rank=rank, size=size))
        sys.exit(1)


def end_with_parent() -> None:
    """Whoever kills the parent wants the processor and the memory back."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def pack(error: BaseException, *, rank: int, size: int) -> bytes:
    """An error for another process, with its traceback as a note."""
    trace = "".join(traceback.format_exception(error))
    note = f"in process {rank} of {size}:\n{trace}"
    said = f"{type(error).__name__}: {error}"
    error.add_note(note)
    try:
        pickled = pickle.dumps(error)
    except Exception:  # noqa: BLE001 - pickling runs the error's own code
        pickled = b""
    return pickle.dumps((pickled, said, note))


def unpack(report: bytes) -> BaseException:
    """The error as it was, or a `RuntimeError` with its type and text if it can't be had here."""
    pickled, said, note = pickle.loads(report)
    try:
        error = pickle.loads(pickled)
    except Exception:  # noqa: BLE001 - so does unpickling, and its module may not be importable
        error = None
    if isinstance(error, BaseException):
        return error
    substitute = RuntimeError(said)
    substitute.add_note(note)
    return substitute
