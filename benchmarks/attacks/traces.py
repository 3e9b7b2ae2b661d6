"""What a pool and its zygotes hold on the machine: an attack shall leave no more of it."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.common import descendants

GROWTH_KIB: Final = 4096
"""What a zygote may grow by: pages that it comes to own when a child ends are not a leak."""
_SHARED: Final = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")
_TABLES: Final = ("unix", "tcp", "tcp6", "udp", "udp6", "raw", "packet", "netlink")


@dataclass(frozen=True, slots=True)
class Held:
    """What one zygote holds.

    Attributes:
        memory_kib: private resident memory, KiB.
        descriptors: how many are open, -1 where only root may know.
        sockets: how many its network namespace has, -1 where only root may know, and where it
            has none of its own.
    """

    memory_kib: int
    descriptors: int
    sockets: int


@dataclass(frozen=True, slots=True)
class Traces:
    """What this process and everything below it hold at one moment.

    Attributes:
        processes: how many live below this one.
        strangers: processes of a job's user that aren't below this one.
        descriptors: this process's, by kind.
        files: of the jobs' users, or named after the sandbox, in the host's shared folders.
        zygotes: the lowest processes of each branch.
    """

    processes: int
    strangers: tuple[int, ...]
    descriptors: Counter[str]
    files: tuple[str, ...]
    zygotes: dict[int, Held] = field(default_factory=dict)

    def since(self, before: Traces) -> list[str]:
        """What is here now and was not before, in words; empty if nothing is."""
        found = []
        if self.processes != before.processes:
            found.append(f"{self.processes} processes, {before.processes} before")
        if new := set(self.strangers) - set(before.strangers):
            found.append(f"processes {sorted(new)} of a job's user")
        if more := self.descriptors - before.descriptors:
            found.append(f"descriptors {dict(more)}")
        if new_files := set(self.files) - set(before.files):
            found.append(f"files {sorted(new_files)}")
        for pid, held in self.zygotes.items():
            found += _grown(held, before.zygotes.get(pid, held))
        return found


def _grown(now: Held, before: Held) -> Iterator[str]:
    if now.memory_kib > before.memory_kib + GROWTH_KIB:
        yield f"a zygote of {now.memory_kib} KiB, {before.memory_kib} before"
    if now.descriptors != before.descriptors:
        yield f"{now.descriptors} descriptors in a zygote, {before.descriptors} before"
    if now.sockets != before.sockets:
        yield f"{now.sockets} sockets in a zygote's network, {before.sockets} before"


def look() -> Traces:
    """How it is now."""
    below = descendants(os.getpid())
    leaves = [pid for pid in below if not descendants(pid)]
    found = users()
    return Traces(
        processes=len(below),
        strangers=tuple(processes_of(found) - set(below)),
        descriptors=Counter(_descriptors()),
        files=tuple(_files(found)),
        zygotes={pid: _held(pid) for pid in leaves},
    )


def users() -> set[int]:
    """The user ids of jobs: those below this process that are neither root's nor its own."""
    found = {_user(pid) for pid in descendants(os.getpid())}
    return {user for user in found if user is not None} - {0, os.getuid()}


def processes_of(users: set[int]) -> set[int]:
    """The processes of some users, wherever they are."""
    return {pid for pid in _everyone() if _user(pid) in users}


def open_descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in _descriptors())


def memory_kib(pid: int | str = "self", kind: str = "RssAnon") -> int:
    """Resident memory of a process, KiB; 0 if it is gone."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if found := re.search(rf"^{kind}:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1])
    return 0


def zygotes() -> list[int]:
    """The first processes of the pid namespaces below this one."""
    return [pid for pid in descendants(os.getpid()) if _is_first(pid)]


def _is_first(pid: int) -> bool:
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return re.search(r"^NSpid:.*\s1$", status, re.MULTILINE) is not None
    return False


def _everyone() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def _user(pid: int) -> int | None:
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        if found := re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE):
            return int(found[1])
    return None


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            yield re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{name}"))


def _files(users: set[int]) -> Iterator[str]:
    for folder in {*_SHARED, tempfile.gettempdir()}:
        with suppress(OSError):
            for entry in os.scandir(folder):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid in users:
                        yield entry.path


def _held(pid: int) -> Held:
    descriptors = sockets = -1
    with suppress(OSError):
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return Held(memory_kib(pid), descriptors, sockets)
        tables = [Path(f"/proc/{pid}/net/{name}") for name in _TABLES]
        sockets = sum(len(t.read_text().splitlines()) - 1 for t in tables if t.exists())
    return Held(memory_kib(pid), descriptors, sockets)
