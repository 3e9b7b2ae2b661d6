"""Two seccomp filters: what the whole zygote may call, and what is taken from a job on top.

The first is an allow-list, loaded once in each zygote: sockets, exec, ptrace, mounts, namespaces,
keyrings, bpf, io_uring, perf, ... are refused because nobody named them. The second is small,
because it is loaded for every job, and takes away what the zygote itself needs: fork, signals to
others, descriptors of processes, changes of limits.

Refusals are errors (EPERM), not kills, so that a program's own `except OSError` works. Calls newer
than the table say ENOSYS, which C libraries take as "fall back".
"""

from __future__ import annotations

import struct
import sys
from functools import lru_cache
from typing import Final

from astor_rl.sandbox.inside import syscalls

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _EAGAIN, _ENOTTY, _ENOSYS = 1, 11, 25, 38
_NUMBER, _ARCHITECTURE = 0, 4
_X32_BIT = 0x40000000
_FIRST_UNKNOWN_CALL: Final = 463  # after the tables were written
_CLONE_THREAD = 0x00010000
_CLONE_ANY_NAMESPACE = 0x7E020000
_HARMLESS_IOCTLS: Final = (0x5401, 0x541B, 0x5450, 0x5451)  # TCGETS FIONREAD FIONCLEX FIOCLEX
_SIGNALS_BY_FCNTL: Final = (8, 10, 15)  # F_SETOWN F_SETSIG F_SETOWN_EX
# F_DUPFD F_GETFD F_SETFD F_GETFL F_GETLK F_SETLK F_SETLKW F_DUPFD_CLOEXEC F_GETPIPE_SZ
_HARMLESS_FCNTLS: Final = (0, 1, 2, 3, 5, 6, 7, 1030, 1032)
_AT_EMPTY_PATH: Final = 0x1000
_CHANGES_OF_FILES: Final = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "utimensat")
_PID: Final = 0x5AC37E91  # stands for the job's process id in a program that waits for it


def _argument(index: int, high: bool = False) -> int:
    return 16 + 8 * index + (4 if high else 0)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _ret(value: int) -> bytes:
    return _op(_RETURN, value)


def _error(number: int) -> bytes:
    return _ret(_ERRNO | number)


def _when(number: int | None, *body: bytes) -> list[bytes]:
    """`body` for one call; every path through it must return."""
    if number is None:  # the architecture doesn't have it
        return []
    return [_op(_JUMP_EQUAL, number, 0, len(body)), *body]


def _split(program: bytes) -> list[bytes]:
    return [program[i : i + 8] for i in range(0, len(program), 8)]


def _prologue() -> list[bytes]:
    return [
        _op(_LOAD, _ARCHITECTURE),
        _op(_JUMP_EQUAL, syscalls.AUDIT_ARCH, 1, 0),
        _ret(_KILL_PROCESS),
        _op(_LOAD, _NUMBER),
        _op(_JUMP_AT_LEAST, _X32_BIT, 0, 1),
        _ret(_KILL_PROCESS),
    ]


def server_filter() -> bytes:
    """The allow-list of a zygote and all that it forks."""
    calls = syscalls.FILTERED
    program = _prologue()
    for number in (*syscalls.EVERYWHERE.values(), *syscalls.SERVER_ONLY.values()):
        program += _when(number, _ret(_ALLOW))
    for name in ("fork", "vfork", "kill", "tkill", "tgkill", "prlimit64"):
        program += _when(calls.get(name), _ret(_ALLOW))
    program += _when(
        calls["clone"],
        _op(_LOAD, _argument(0)),
        _op(_JUMP_ANY_BIT, _CLONE_ANY_NAMESPACE, 0, 1),
        _error(_EPERM),
        _ret(_ALLOW),
    )
    # Its flags are behind a pointer, where a filter can't look: C libraries fall back to clone.
    program += _when(calls["clone3"], _error(_ENOSYS))
    requests = [_op(_JUMP_EQUAL, r, 0, 1) + _ret(_ALLOW) for r in _HARMLESS_IOCTLS]
    body = b"".join((_op(_LOAD, _argument(1)), *requests, _error(_ENOTTY)))
    program += _when(calls["ioctl"], *_split(body))
    program += [_op(_JUMP_AT_LEAST, _FIRST_UNKNOWN_CALL, 0, 1), _error(_ENOSYS), _error(_EPERM)]
    return b"".join(program)


def job_filter(pid: int, may_fork: bool, *, rooted: bool = True, inherits: bool = False) -> bytes:
    """What a job loses: forking unless allowed, signals to other processes, limits, descriptors.

    Signals by way of a descriptor's owner are refused with `may_fork`, too.

    Args:
        pid: the job's own process id as it sees it; with `may_fork` signals are left alone, since
            they reach only the job's own tree and the namespace's immune first process.
        may_fork: whether the job may have processes of its own.
        rooted: whether it has a private root. Without, modes and times of files are left alone:
            Landlock doesn't guard those of the host.
        inherits: whether its descriptors are also those of a process after it, which shall not
            find a message in their modes, times, flags or sizes.
    """
    around = _around_pid(syscalls.MACHINE, may_fork, rooted, inherits)
    return pid.to_bytes(4, sys.byteorder).join(around)


@lru_cache
def _around_pid(machine: str, may_fork: bool, rooted: bool, inherits: bool) -> list[bytes]:
    """The program without the process id: what is around its places, by `machine`'s tables."""
    calls, server = syscalls.FILTERED, syscalls.SERVER_ONLY
    program = _prologue()
    if not may_fork:
        program += _when(
            calls["clone"],
            _op(_LOAD, _argument(0)),
            _op(_JUMP_ANY_BIT, _CLONE_THREAD, 0, 1),
            _ret(_ALLOW),
            _error(_EAGAIN),
        )
        for name in ("fork", "vfork"):
            program += _when(calls.get(name), _error(_EAGAIN))
        for name in ("kill", "tgkill"):
            program += _when(
                calls[name],
                _op(_LOAD, _argument(0)),
                _op(_JUMP_EQUAL, _PID, 0, 1),
                _ret(_ALLOW),
                _error(_EPERM),
            )
        program += _when(calls["tkill"], _error(_EPERM))
    # Reading limits is fine: prlimit64 with a null new limit.
    program += _when(
        calls["prlimit64"],
        _op(_LOAD, _argument(2)),
        _op(_JUMP_EQUAL, 0, 0, 3),
        _op(_LOAD, _argument(2, high=True)),
        _op(_JUMP_EQUAL, 0, 0, 1),
        _ret(_ALLOW),
        _error(_EPERM),
    )
    program += _of_descriptors() if inherits else _signals_by_descriptors()
    if not rooted:
        for name in _CHANGES_OF_FILES:
            program += _when(syscalls.EVERYWHERE.get(name), _error(_EPERM))
    for number in server.values():
        program += _when(number, _error(_EPERM))
    program.append(_ret(_ALLOW))
    return b"".join(program).split(struct.pack("I", _PID))


def _signals_by_descriptors() -> list[bytes]:
    """A pipe's owner is sent the signal of one's choice when something is written to it."""
    owners = [_op(_JUMP_EQUAL, request, 0, 1) + _error(_EPERM) for request in _SIGNALS_BY_FCNTL]
    body = b"".join((_op(_LOAD, _argument(1)), *owners, _ret(_ALLOW)))
    return _when(syscalls.EVERYWHERE["fcntl"], *_split(body))


def _of_descriptors() -> list[bytes]:
    """What an open file would keep for whoever else has it open."""
    requests = [_op(_JUMP_EQUAL, r, 0, 1) + _ret(_ALLOW) for r in _HARMLESS_FCNTLS]
    body = b"".join((_op(_LOAD, _argument(1)), *requests, _error(_EPERM)))
    program = _when(syscalls.EVERYWHERE["fcntl"], *_split(body))
    program += _when(syscalls.EVERYWHERE["fchmod"], _error(_EPERM))
    # Of a descriptor: no path, or an empty one.
    program += _when(
        syscalls.EVERYWHERE["utimensat"],
        _op(_LOAD, _argument(3)),
        _op(_JUMP_ANY_BIT, _AT_EMPTY_PATH, 4, 0),
        _op(_LOAD, _argument(1)),
        _op(_JUMP_EQUAL, 0, 0, 3),
        _op(_LOAD, _argument(1, high=True)),
        _op(_JUMP_EQUAL, 0, 0, 1),
        _error(_EPERM),
        _ret(_ALLOW),
    )
    return program
