"""Where a job's CPU time goes: by process, and by step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside.protocol import DESCRIPTORS
from benchmarks.common import ROOT, Usage, descendants, summary, usage
from benchmarks.sandbox.contenders import Contender
from benchmarks.sandbox.jobs import Case

_TIMES: Final = 300
_SETTLE_S: Final = 0.05


def by_process(contender: Contender, cases: Sequence[Case], times: int) -> dict[str, float]:
    """CPU milliseconds and page faults a job of the parent, the servers and the jobs themselves."""
    me = os.getpid()
    parent = servers = Usage()
    jobs = 0
    for _ in range(times):
        below = _servers(me)
        before = usage([me]), usage(below)
        contender.run(cases)
        if _servers(me) == below:  # else a server was replaced, and what it had used is gone
            parent += usage([me]) - before[0]
            servers += usage(below) - before[1]
            jobs += len(cases)
    return _per_job(parent, servers, max(1, jobs))


def _servers(of: int) -> list[int]:
    time.sleep(_SETTLE_S)  # a job's process may outlive its answer a little
    return sorted(descendants(of))


def _per_job(parent: Usage, servers: Usage, jobs: int) -> dict[str, float]:
    return {
        "parent_user_ms": 1e3 * parent.user_s / jobs,
        "parent_system_ms": 1e3 * parent.system_s / jobs,
        "server_user_ms": 1e3 * servers.user_s / jobs,
        "server_system_ms": 1e3 * servers.system_s / jobs,
        "job_user_ms": 1e3 * servers.reaped_user_s / jobs,
        "job_system_ms": 1e3 * servers.reaped_system_s / jobs,
        "server_faults": servers.faults / jobs,
        "job_faults": servers.reaped_faults / jobs,
    }


def by_step(cases: Sequence[Case]) -> dict[str, Any]:
    """Wall milliseconds of single steps, each alone: what one job needs of it.

    `fork` is fork, `_exit` and wait of an interpreter with the zygote's imports; `limits` and
    `second_filter` are what these add inside the child.
    """
    return {**_forks(), **_in_parent(cases)}


def _forks() -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.sandbox.fork_cost", str(_TIMES)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    bare, limited, filtered = (summary(found[name]) for name in ("bare", "limits", "filter"))
    return {
        "fork": bare,
        "limits": limited["median"] - bare["median"],
        "second_filter": filtered["median"] - limited["median"],
    }


def _in_parent(cases: Sequence[Case]) -> dict[str, float]:
    results = [
        [["value", codec.encode(check.expected, 1 << 18), "", ""] for check in case.checks]
        for case in cases
    ]
    messages = [codec.encode(["end", "ok", "", rows], 1 << 18) for rows in results]
    jobs = len(cases)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        return {
            "codec_write": _ms(lambda: [codec.encode(["end", rows], 1 << 18) for rows in results])
            / jobs,
            "codec_read": _ms(lambda: list(map(codec.decode, messages))) / jobs,
            "job_to_json": _ms(lambda: [case.payload() for case in cases]) / jobs,
            "pipes": _ms(lambda: _pass_pipes(ours, theirs)),
        }


def _pass_pipes(ours: socket.socket, theirs: socket.socket) -> None:
    pipes = [os.pipe() for _ in range(DESCRIPTORS)]
    socket.send_fds(ours, [b"limits"], [pipe[0] for pipe in pipes])
    _, received, _, _ = socket.recv_fds(theirs, 64, DESCRIPTORS)
    for descriptor in (*received, *(end for pipe in pipes for end in pipe)):
        os.close(descriptor)


def _ms(action: Callable[[], object]) -> float:
    times = []
    for _ in range(_TIMES // 10):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    return summary(times)["median"]
