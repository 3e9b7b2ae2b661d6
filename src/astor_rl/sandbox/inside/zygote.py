"""A small warm interpreter that forks one child for each job and never reads a job itself.

Started by exec from the pool with a clean environment, it imports what jobs commonly use, walls
itself in (`jail`), says hello and then serves: a message with limits and four descriptors in, the
way the child ended out. The descriptors carry the job, its results and what it prints; only the
child touches them.
"""

from __future__ import annotations

import array
import gc
import importlib
import itertools
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any, Final

from astor_rl.sandbox.inside import child, emptying, kernel, seccomp
from astor_rl.sandbox.inside.jail import Jail
from astor_rl.sandbox.inside.protocol import (
    DESCRIPTORS,
    KILL,
    LIMITS,
    REPORT,
    STARTED,
    UNWATCHED_S,
    Granted,
)

_PRELOADED = """
    abc array ast base64 bisect calendar cmath codecs collections collections.abc contextlib copy
    csv dataclasses datetime decimal enum fractions functools hashlib heapq inspect io itertools
    json linecache math numbers operator queue random re statistics string struct textwrap
    threading time traceback types typing unicodedata uuid
"""
_STOCK: Final = 64
_DESCRIPTOR: Final = struct.Struct("i")
_STARTED: Final = (STARTED,)
PRELOADED: Final = tuple(_PRELOADED.split())
"""Modules of the standard library that every zygote has imported."""


_Report = tuple[int, bool, float, int]
_Job = tuple[tuple[int, ...], Granted, bool, bool, bool]
"""What a forked child needs to be a job: the arguments of `child.run`."""


def main(configuration: str) -> _Job:
    """Serve until the control socket ends. `configuration` is the pool's JSON.

    Returns in each child, so that the stack below a job's code holds none of the zygote's.
    """
    # They hold the configuration, which names paths of the host.
    sys.argv[:], sys.orig_argv[:] = [""], []
    return _serve(*_closed_in(configuration))


def _closed_in(configuration: str) -> tuple[socket.socket, Jail, int, bool]:
    """Build the jail. What it is built from is gone afterwards: no fork has to clear it away.

    Returns:
        the control socket, the jail, the address space of the idle interpreter (bytes), and whether
        packages of others are loaded.
    """
    config = json.loads(configuration)
    kernel.die_with_parent(signal.SIGKILL)
    control = socket.socket(fileno=config["control"])
    try:
        jail = Jail(
            read=config["read"],
            hide=config["hide"],
            scratch=config["scratch"],
            uid=config["uid"],
            scratch_mb=config["scratch_mb"],
        )
        jail.leave_namespaces()
        if jail.has("pidns"):
            _become_first_process(control)
        _import_all(config)
        idle = _address_space()
        jail.close_in()
    except BaseException:  # noqa: BLE001 - the pool shall hear why, whatever it is
        control.send(json.dumps({"error": traceback.format_exc(limit=-3)[-2000:]}).encode())
        os._exit(1)
    return control, jail, idle, config["keep_paths"]


def _become_first_process(control: socket.socket) -> None:
    """Go on in a child, the pid 1 of the new namespace: the kernel ends all with it."""
    pid = os.fork()
    if pid == 0:
        kernel.die_with_parent(signal.SIGKILL)
        return
    control.close()
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _import_all(config: dict[str, Any]) -> None:
    sys.path.extend(config["paths"])
    for name in (*PRELOADED, *config["modules"]):
        importlib.import_module(name)
    if not config["keep_paths"]:
        del sys.path[len(sys.path) - len(config["paths"]) :]
    for harness in config["harnesses"]:
        child.load(harness)
    # Jobs shall not stumble over this package, and what they import is only the library's.
    for name in [name for name in sys.modules if name.partition(".")[0] == "astor_rl"]:
        del sys.modules[name]


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _serve(control: socket.socket, jail: Jail, idle: int, others: bool) -> _Job:
    hello = {"applied": jail.applied, "missing": jail.missing, "address_space": idle}
    control.send(json.dumps(hello).encode())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    may_fork, rooted = jail.has("pidns"), jail.has("root")
    for forks, inherits in itertools.product((False, True), repeat=2):
        # Made once, here: each job only adds its process id.
        seccomp.job_filter(0, forks, rooted=rooted, inherits=inherits)
    gc.collect()
    gc.freeze()
    # New lists are made of freed ones, the last first: a stock of them, in an order that no job
    # changes, so that every job finds its lists at the same addresses.
    stock: list[list[Any]] = [[] for _ in range(_STOCK)]
    del stock
    while True:
        message, descriptors = _receive(control)
        if message == KILL:  # late: that job has ended
            continue
        if not message:
            os._exit(0)
        # No list is kept from job to job: the stock would be in another order for the next one.
        limits = Granted._make(LIMITS.unpack(message))
        started = time.monotonic()
        pid = kernel.fork(hooks=others)
        if pid == 0:
            os.close(control.detach())  # `close` does more, and each page it does it on is copied
            return descriptors, limits, may_fork, rooted, others
        for descriptor in descriptors:
            os.close(descriptor)
        report = _watch(pid, limits.wall_s, control, poll)
        jail.end_everyone()
        seconds = time.monotonic() - started
        clean = emptied_apart(jail.work, others=others)
        control.send(REPORT.pack(*report, seconds, clean))
        if not clean:
            os._exit(0)


def _receive(control: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    message, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(4 * DESCRIPTORS))
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    return message, tuple(descriptors)


def _watch(pid: int, wall_s: float, control: socket.socket, poll: select.poll) -> _Report:
    """Wait for the child until the deadline or a word of the pool.

    Returns:
        wait status, whether the deadline killed it, CPU seconds, peak resident KiB
    """
    process = os.pidfd_open(pid)
    poll.register(process, select.POLLIN)
    events = poll.poll(min(wall_s, UNWATCHED_S) * 1000)
    if not events and wall_s > UNWATCHED_S:
        # Two objects of one size, freed in the order that they were made in, change places for
        # the next job: so nothing here makes two (as `socket.send_fds` would).
        del events
        rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, _DESCRIPTOR.pack(process)
        control.sendmsg(_STARTED, [rights])
        del rights
        events = poll.poll((wall_s - UNWATCHED_S) * 1000)
    poll.unregister(process)
    if process not in dict(events):
        if events and control.recv(16) != KILL:
            os._exit(0)  # the pool is gone, and with us all below
        signal.pidfd_send_signal(process, signal.SIGKILL)
    status, cpu_s, peak_kb = kernel.wait(pid)
    os.close(process)
    return status, not events, cpu_s, peak_kb


def emptied_apart(work: str, *, others: bool) -> bool:
    """`emptied`, by another process if there is something: this one's memory stays as it is."""
    try:
        if emptying.reset(work):
            return True
        pid = kernel.fork(hooks=others)
    except OSError:
        return False
    if pid == 0:
        code = 1
        try:
            code = 0 if emptying.emptied(work) else 1
        finally:
            os._exit(code)
    status, _, _ = kernel.wait(pid)
    return status == 0
