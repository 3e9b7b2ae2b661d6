"""What a job's own process does: take its descriptors, accept its limits, run its harness."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import resource
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import kernel, seccomp, syscalls
from astor_rl.sandbox.inside.protocol import END

THREADS: Final = 16
"""Threads that a job may have beyond its processes."""
_JOB, _RESULTS = 200, 201
_STACK: Final = 64 << 20
_CHUNK: Final = 1 << 20
_Emit = Callable[[Any], None]
_HARNESSES: dict[str, Callable[[Mapping[str, Any], int, _Emit], Any]] = {}

# Bound now: a job may replace these functions in their modules.
_write, _read, _exit, _close = os.write, os.read, os._exit, os.close
_loads, _encode, _too_large = json.loads, codec.encode, codec.TooLarge
_suppress = contextlib.suppress
_format_exc = traceback.format_exc
_frame_length = struct.Struct("<I").pack
_out, _err = sys.stdout, sys.stderr


def load(name: str) -> None:
    """Import a harness: a module of this package with `run(job, output_limit, emit) -> message`.

    What it emits on the way arrives even if the process doesn't reach its end.
    """
    _HARNESSES[name] = importlib.import_module(f"astor_rl.sandbox.inside.{name}").run


def run(descriptors: Sequence[int], limits: Mapping[str, Any], *, may_fork: bool) -> NoReturn:
    """Run the job that arrives on the first descriptor; never returns."""
    code = 1
    try:
        _take(descriptors)
        _confine(limits, may_fork)
        job = _loads(_read_all(_JOB))
        _close(_JOB)
        _run(job, limits["output"])
        code = 0
    except BaseException:  # noqa: BLE001 - a job can break its harness: say so where it prints
        _write(2, _format_exc().encode("utf-8", "replace"))
    finally:
        # `_exit` skips atexit handlers, waiting threads and every `finally` of the job.
        _exit(code)


def _run(job: Mapping[str, Any], output_limit: int) -> None:
    random.seed(job["seed"])
    _give_stdin(job["stdin"])
    token = bytes.fromhex(job["token"])

    def emit(message: Any) -> None:
        data = _encode(message, output_limit)
        _write_all(token + _frame_length(len(data)) + data)

    try:
        emit([END, *_HARNESSES[job["harness"]](job, output_limit, emit)])
    except _too_large:
        emit([END, "output_limit", "results above their limit"])
    except MemoryError:
        emit([END, "memory", "out of memory"])
    for stream in (_out, _err):
        with _suppress(Exception):  # closed or broken by the job: only its own print is lost
            stream.flush()


def _take(descriptors: Sequence[int]) -> None:
    job, results, out, err = descriptors
    os.dup2(job, _JOB)
    os.dup2(results, _RESULTS)
    os.dup2(out, 1)
    os.dup2(err, 2)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, _JOB)
    # Above: only what the interpreter had opened before; a zygote has nothing there.
    os.closerange(_RESULTS + 1, _RESULTS + 64)


def _confine(limits: Mapping[str, Any], may_fork: bool) -> None:
    may_fork = may_fork and limits["processes"] > 0
    for name, soft, hard in (
        (resource.RLIMIT_AS, limits["memory"], limits["memory"]),
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + 1),
        (resource.RLIMIT_FSIZE, limits["file"], limits["file"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_STACK, _STACK, _STACK),
        (resource.RLIMIT_NOFILE, limits["open_files"], limits["open_files"]),
        # The zygote and this process count too: they have the same user id.
        (resource.RLIMIT_NPROC, *(2 + limits["processes"] + THREADS,) * 2),
    ):
        resource.setrlimit(name, (soft, hard))
    if syscalls.SUPPORTED and limits["seccomp"]:
        kernel.install_filter(seccomp.job_filter(os.getpid(), may_fork))


def _give_stdin(text: str) -> None:
    if not text:
        return
    descriptor = os.memfd_create("stdin")
    view = memoryview(text.encode("utf-8", "surrogatepass"))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.dup2(descriptor, 0)
    os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := _read(descriptor, _CHUNK):
        parts.append(part)
    return b"".join(parts)


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[_write(_RESULTS, view) :]
