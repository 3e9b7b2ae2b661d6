"""The process of the untrusted side, forked before a job is read, so that it knows nothing of it.

It waits for a word of the trusted side: either to be the untrusted side itself, once, or to fork a
fresh one each time. What such a fork leaves behind (bytes in the pipe, files) is gone before the
next one starts, so that none can tell the next anything.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import signal
import struct
import traceback
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import kernel
from astor_rl.sandbox.inside.child import Walls
from astor_rl.sandbox.inside.protocol import STUCK
from astor_rl.sandbox.inside.proxy.channel import Channel, Lost
from astor_rl.sandbox.inside.proxy.peer import LIMIT

FRAME: Final = LIMIT + (1 << 10)
"""Bytes of the largest frame."""
Main = Callable[[Channel, bytes], None]
"""What an untrusted side does; the bytes say with what."""
_COMMAND: Final = struct.Struct("<cII")
_REPORT: Final = struct.Struct("<id?")
_NOT_RUN: Final = _REPORT.pack(0, 0.0, False)
_BECOME: Final = b"B"
_FORK: Final = b"F"
_KILL: Final = b"K"
_CHUNK: Final = 1 << 16
_DESCRIPTORS: Final = 256
"""More than are ever open here."""

# Bound now: code under test may replace these functions in their module.
_exit = os._exit


class Worker:
    """A process that the trusted side forks from itself, for code that may crash or loop.

    Args:
        work: what it does; with two descriptors, of commands to read and of results to write.
        walls: of the process; it has the limits of this one already.
        keep: descriptors that it has besides.
    """

    def __init__(
        self, work: Callable[[int, int], None], walls: Walls, keep: Collection[int] = ()
    ) -> None:
        commands, results = os.pipe(), os.pipe()
        self._pid = kernel.fork(hooks=walls.others)
        if self._pid == 0:
            _work(partial(work, commands[0], results[1]), walls, {*keep, commands[0], results[1]})
        os.close(commands[0])
        os.close(results[1])
        self.results = results[0]
        """A descriptor that can be read when there is a result, or none to come."""
        self._commands = commands[1]
        self._channel = Channel(results[0], commands[1], FRAME)

    def tell(self, words: Sequence[Any]) -> None:
        """Send a command, if it is still there."""
        with contextlib.suppress(Lost):
            self._channel.send(codec.encode(list(words), FRAME))

    def result(self) -> list[Any] | None:
        """The next result, None if it has ended before."""
        try:
            return list(codec.decode(self._channel.receive()))
        except Lost:
            return None

    def end(self) -> Ended:
        """Wait until it has ended: by itself, since it hears that there are no more commands."""
        os.close(self._commands)
        _, status, usage = os.wait4(self._pid, 0)
        os.close(self.results)
        return how_it_ended(status, usage.ru_utime + usage.ru_stime)


def _work(work: Callable[[], None], walls: Walls, keep: Collection[int]) -> NoReturn:
    code = 1
    errors = os.dup(2)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # nobody reads what mutants print
        os.dup2(nowhere, 2)
        kept = sorted({2, errors, *keep, _DESCRIPTORS})
        for below, above in itertools.pairwise(kept):
            os.closerange(below + 1, above)
        walls.filter()
        work()
        code = 0
    except Lost:
        code = 0
    except BaseException:  # noqa: BLE001 - code under test can break its harness
        os.write(errors, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        _exit(code)


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: `crash` or `timeout`, or that of `SPOILT`.
        message: one line.
    """

    status: str
    message: str


SPOILT: Final = Ended("malformed", "left files that can't be removed")
"""The end of a fork that leaves something to the next, and of all that would come after it."""


class Helper:
    """The trusted side's handle on the process.

    Args:
        walls: of the untrusted process.
        main: what the process does when it is to be the untrusted side.
        forked: what each of its forks does.
        clean: empties the scratch directory; says whether it could.
        hidden: descriptors that only the trusted side may have.
    """

    def __init__(
        self,
        walls: Walls,
        main: Main,
        forked: Main,
        clean: Callable[[], bool],
        hidden: tuple[int, ...],
    ) -> None:
        there, back, commands, reports = (os.pipe() for _ in range(4))
        self._pid = kernel.fork(hooks=walls.others)
        if self._pid == 0:
            for descriptor in (there[1], back[0], commands[1], reports[0], *hidden):
                os.close(descriptor)
            nursery = _Nursery(walls, clean, there[0], back[1], commands[0], reports[1])
            nursery.run(main, forked)
        for descriptor in (there[0], back[1], commands[0], reports[1]):
            os.close(descriptor)
        self.reads, self.writes = back[0], there[1]
        self._commands = commands[1]
        self.reports = reports[0]
        """A descriptor that can be read when a fork has ended."""

    def become(self, cpu_s: int, data: bytes) -> Channel:
        """Let it be the untrusted side, with so many seconds of CPU time."""
        self._command(_BECOME, cpu_s, data)
        return Channel(self.reads, self.writes, FRAME)

    def fork(self, cpu_s: int, data: bytes) -> None:
        """Let it fork one. `reap` must follow; nobody may talk to the last one any more."""
        _drain(self.reads)
        self._command(_FORK, cpu_s, data)

    def _command(self, word: bytes, cpu_s: int, data: bytes) -> None:
        view = memoryview(_COMMAND.pack(word, cpu_s, len(data)) + data)
        while view:
            view = view[os.write(self._commands, view) :]

    def kill(self) -> None:
        """Have the fork killed, if it is still there."""
        self._command(_KILL, 0, b"")

    def reap(self) -> Ended:
        """Wait for the fork's end: `malformed` if the next one could meet what it left behind."""
        status, used, clean = _REPORT.unpack(os.read(self.reports, _REPORT.size))
        return how_it_ended(status, used) if clean else SPOILT

    def end(self) -> Ended:
        """Kill the process itself, or learn how it has ended."""
        waited, status, usage = os.wait4(self._pid, os.WNOHANG)
        if not waited:
            os.kill(self._pid, signal.SIGKILL)
            _, status, usage = os.wait4(self._pid, 0)
        return how_it_ended(status, usage.ru_utime + usage.ru_stime)


def how_it_ended(status: int, used: float) -> Ended:
    """What became of a process, by what wait(2) says and its CPU seconds."""
    if not os.WIFSIGNALED(status):
        code = os.waitstatus_to_exitcode(status)
        if code == STUCK:
            return Ended("timeout", "swallowed its deadlines")
        return Ended("crash", f"exited early with code {code}")
    number = os.WTERMSIG(status)
    limit = resource.getrlimit(resource.RLIMIT_CPU)[0]
    # The limit counts ticks, of which a loaded machine gives more than what was really used.
    if number == signal.SIGXCPU or (number == signal.SIGKILL and 2 * used >= limit > 0):
        return Ended("timeout", "CPU deadline")
    return Ended("crash", f"killed by signal {number}")


def _drain(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(0) and os.read(descriptor, _CHUNK):
        pass


class _Nursery(NamedTuple):
    """The process's own end."""

    walls: Walls
    clean: Callable[[], bool]
    reads: int
    writes: int
    commands: int
    reports: int

    def run(self, main: Main, forked: Main) -> NoReturn:
        code, clean = 1, True
        try:
            while self._wait() and (head := os.read(self.commands, _COMMAND.size)):
                word, cpu_s, size = _COMMAND.unpack(head)
                data = self._read(size)
                if word == _BECOME:
                    self._be(main, cpu_s, data)
                elif word == _FORK and clean:
                    clean = self._raise(forked, cpu_s, data)
                elif word == _FORK:
                    os.write(self.reports, _NOT_RUN)
            code = 0
        finally:
            _exit(code)

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(os.read(self.commands, size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _wait(self) -> bool:
        """Wait for a command. What is written for a fork that has ended is thrown away."""
        poll = select.poll()
        poll.register(self.commands, select.POLLIN)
        poll.register(self.reads, select.POLLIN)
        while self.commands not in (ready := dict(poll.poll())):
            if not ready.get(self.reads, 0) & select.POLLIN or not os.read(self.reads, _CHUNK):
                return False  # nobody is there any more
        return True

    def _raise(self, forked: Main, cpu_s: int, data: bytes) -> bool:
        """Fork, wait for the end or the word for it, and clear up; whether that was possible."""
        _drain(self.reads)
        life = os.pipe()
        pid = kernel.fork(hooks=self.walls.others)
        if pid == 0:
            os.close(life[0])
            self._be(forked, cpu_s, data, inherits=True)
        os.close(life[1])
        poll = select.poll()
        poll.register(life[0], select.POLLIN)
        poll.register(self.commands, select.POLLIN)
        poll.poll()
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        os.close(life[0])
        clean = self.clean()
        os.write(self.reports, _REPORT.pack(status, usage.ru_utime + usage.ru_stime, clean))
        return clean

    def _be(self, main: Main, cpu_s: int, data: bytes, *, inherits: bool = False) -> NoReturn:
        code = 1
        try:
            os.close(self.commands)
            os.close(self.reports)
            # The trusted side's is a file in which both could seek.
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            self.walls.limit(cpu_s)
            self.walls.filter(inherits=inherits)
            main(Channel(self.reads, self.writes, FRAME), data)
            code = 0
        except Lost:
            code = 0
        except BaseException:  # noqa: BLE001 - it can break its own harness: say so where it prints
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        finally:
            _exit(code)
