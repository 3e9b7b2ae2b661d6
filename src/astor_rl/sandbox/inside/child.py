"""What a job's own process does: take its descriptors, accept its limits, run its harness.

Job code can walk the stack that it runs on and read every frame's variables. So the token, the
job's description and results that are not sent yet are never in a variable there: they travel as
operands of an expression or inside iterators of the C library, which no frame shows.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import struct
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import kernel, seccomp, syscalls
from astor_rl.sandbox.inside.protocol import END, Granted

THREADS: Final = 16
"""Threads that a job may have beyond its processes."""
_JOB, _RESULTS = 200, 201
_OWN: Final = 2
"""The zygote and the process of a job."""
_STACK: Final = 64 << 20
_CHUNK: Final = 1 << 16
_Harness = Callable[[Mapping[str, Any], int], Iterator[Any]]
_HARNESSES: dict[str, _Harness] = {}
_PREPARATIONS: list[Any] = []
"""The harnesses that have processes beside a job's own."""
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

# Bound now: a job may replace these functions in their modules.
_write, _read, _exit, _close = os.write, os.read, os._exit, os.close
# Without `json.loads` around it, which looks for white space by regular expressions: each process
# would have to map their code.
_scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]
_encode, _too_large = codec.encode, codec.TooLarge
_suppress = contextlib.suppress
_format_exc = traceback.format_exc
_frame_length = struct.Struct("<I").pack
_drain = deque
_out, _err = sys.stdout, sys.stderr


class _Full(BaseException):
    """The results are above their limit, and that has been said."""


def load(name: str) -> None:
    """Import a harness: a module of this package with `run(job, output_limit) -> messages`.

    The last message starts with `END`; what comes before arrives even if the process doesn't
    reach its end. A harness that has `prepare(walls, hidden)` and `PROCESSES` forks the process of
    the untrusted side there, before the job is read: its memory holds nothing of it. It builds
    its walls itself.
    """
    module = importlib.import_module(f"astor_rl.sandbox.inside.{name}")
    _HARNESSES[name] = module.run
    if hasattr(module, "prepare"):
        _PREPARATIONS.append(module)


def run(
    descriptors: Sequence[int], limits: Granted, may_fork: bool, rooted: bool, others: bool
) -> NoReturn:
    """Run the job that arrives on the first descriptor; never returns."""
    code = 1
    try:
        _take(descriptors, limits.stdin)
        walls = Walls(limits, may_fork and limits.processes > 0, rooted, others)
        for harness in _PREPARATIONS:
            harness.prepare(walls, (_JOB, _RESULTS))
        walls.limit()
        if not _PREPARATIONS:
            walls.filter()
        with _suppress(_Full):
            _drain(map(*_sender_and_messages(limits.output)), 0)
        for stream in (_out, _err):
            with _suppress(Exception):  # closed or broken by the job: only its own print is lost
                stream.flush()
        code = 0
    except BaseException:  # noqa: BLE001 - a job can break its harness: say so where it prints
        _write(2, _format_exc().encode("utf-8", "replace"))
    finally:
        # `_exit` skips atexit handlers, waiting threads and every `finally` of the job.
        _exit(code)


def _sender_and_messages(output_limit: int) -> tuple[Callable[[Any], None], Iterator[Any]]:
    """What writes a message, and the messages, whose computation is the job."""
    job, _ = _scan(_read_all(_JOB).decode(), 0)
    _close(_JOB)
    random.seed(job["seed"])
    if job["stdin"]:
        _give_stdin(job["stdin"])
    send = _sender(bytes.fromhex(job.pop("token")), output_limit)
    messages = _guarded([_HARNESSES[job["harness"]](job, output_limit)])
    # Into the generation that `gc.get_objects` and `gc.get_referrers` don't look at.
    gc.freeze()
    return send, messages


def _sender(token: bytes, output_limit: int) -> Callable[[Any], None]:
    def send(message: Any) -> None:
        try:
            data = _encode(message, output_limit)
        except _too_large:
            _write_frame(token, _encode(_TOO_MUCH, output_limit))
            raise _Full from None
        _write_frame(token, data)

    return send


_TOO_MUCH: Final = [END, "output_limit", "results above their limit"]


def _guarded(box: list[Iterator[Any]]) -> Iterator[Any]:
    """The messages of the iterator in the box, then the end if they could not all be made."""
    try:
        yield from box.pop()
    except _too_large:
        yield _TOO_MUCH
    except MemoryError:
        yield [END, "memory", "out of memory"]


def _take(descriptors: Sequence[int], has_stdin: bool) -> None:
    job, results, out, err = descriptors
    os.dup2(job, _JOB)
    os.dup2(results, _RESULTS)
    os.dup2(out, 1)
    os.dup2(err, 2)
    # Now: jobs may not make files in memory, which no limit of theirs counts. Without text, too, it
    # is one of its own, since all who share an open file share its flags; a pipe costs less.
    if has_stdin:
        stdin = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        stdin, _ = os.pipe()
    os.dup2(stdin, 0)
    os.closerange(3, _JOB)
    # Above: only what the interpreter had opened before; a zygote has nothing there.
    os.closerange(_RESULTS + 1, _RESULTS + 64)


class Walls(NamedTuple):
    """What a process of a job accepts before it runs code that it doesn't trust.

    Attributes:
        limits: from the pool.
        may_fork: whether untrusted code may.
        rooted: whether there is a private root.
        others: whether packages beside the standard library are loaded (see `kernel.fork`).
    """

    limits: Granted
    may_fork: bool
    rooted: bool
    others: bool

    def limit(self, cpu_s: int | None = None) -> None:
        """Take on the limits, but for the CPU time if it is given. For all time."""
        limits = self.limits
        cpu_s = limits.cpu_s if cpu_s is None else min(cpu_s, limits.cpu_s)
        others = sum(harness.PROCESSES for harness in _PREPARATIONS)
        for name, soft, hard in (
            (resource.RLIMIT_AS, limits.memory, limits.memory),
            (resource.RLIMIT_CPU, cpu_s, cpu_s + 1),
            (resource.RLIMIT_FSIZE, limits.file, limits.file),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_STACK, _STACK, _STACK),
            (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
            # The zygote and its children count too: they have the same user id.
            (resource.RLIMIT_NPROC, *(_OWN + others + limits.processes + THREADS,) * 2),
        ):
            resource.setrlimit(name, (soft, hard))

    def filter(self, *, trusted: bool = False, inherits: bool = False) -> None:
        """Load the job's filter.

        Args:
            trusted: the process may still fork, and signal what it forked.
            inherits: processes after it have the same descriptors.
        """
        if syscalls.SUPPORTED and self.limits.seccomp:
            forks = trusted or self.may_fork
            kernel.install_filter(
                seccomp.job_filter(os.getpid(), forks, rooted=self.rooted, inherits=inherits)
            )


def _give_stdin(text: str) -> None:
    """Put the text on descriptor 0, a file in memory, and seal it: it is no store for the job."""
    view = memoryview(text.encode("utf-8", "surrogatepass"))
    while view:
        view = view[os.write(0, view) :]
    os.lseek(0, 0, os.SEEK_SET)
    fcntl.fcntl(0, fcntl.F_ADD_SEALS, _SEALS)


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := _read(descriptor, _CHUNK):
        parts.append(part)
    return b"".join(parts)


def _write_frame(token: bytes, data: bytes) -> None:
    view = memoryview(token + _frame_length(len(data)) + data)
    while view:
        view = view[_write(_RESULTS, view) :]
