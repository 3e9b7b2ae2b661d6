"""Forks of an interpreter with the zygote's imports; prints milliseconds by kind as JSON.

A program of its own, since it forks and takes away its own privileges. Argument: how often.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable

from astor_rl.sandbox.inside import kernel, seccomp, syscalls
from astor_rl.sandbox.inside.zygote import PRELOADED

_LIMITS = ("AS", "CPU", "FSIZE", "CORE", "STACK", "NOFILE", "NPROC")


def _nothing() -> None:
    pass


def _limit() -> None:
    for name in _LIMITS:
        number: int = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(number)
        resource.setrlimit(number, (hard, hard))


def _limit_and_filter() -> None:
    _limit()
    if syscalls.SUPPORTED:
        kernel.install_filter(seccomp.job_filter(os.getpid(), False))


def _forked(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"a fork ended with status {status}")
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Take turns between the kinds."""
    for name in PRELOADED:
        importlib.import_module(name)
    kernel.no_new_privileges()
    gc.collect()
    gc.freeze()
    kinds = {"bare": _nothing, "limits": _limit, "filter": _limit_and_filter}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(int(sys.argv[1])):
        for name, action in kinds.items():
            times[name].append(_forked(action))
    print(json.dumps(times))


if __name__ == "__main__":
    main()
