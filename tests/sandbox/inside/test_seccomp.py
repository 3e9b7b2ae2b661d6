"""The filters as programs: an interpreter of classic BPF runs them for both architectures."""

from __future__ import annotations

import importlib
import platform
import struct
from collections.abc import Iterator
from types import ModuleType

import pytest

from astor_rl.sandbox.inside import seccomp, syscalls

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _EAGAIN, _ENOTTY, _ENOSYS = (0x50000 | n for n in (1, 11, 25, 38))


@pytest.fixture(params=["x86_64", "aarch64"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tables as they are on another machine; restored afterwards."""
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    yield importlib.reload(syscalls)
    monkeypatch.undo()
    importlib.reload(syscalls)


def _run(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    words = [a & 0xFFFFFFFFFFFFFFFF for a in (*arguments, *(0,) * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *words)
    instructions = list(struct.iter_unpack("HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
            continue
        taken = {
            0x15: accumulator == value,
            0x35: accumulator >= value,
            0x45: bool(accumulator & value),
        }[code]
        at += if_true if taken else if_false


def test_the_server_filter(table: ModuleType) -> None:
    program = seccomp.server_filter()

    def verdict(number: int, *arguments: int) -> int:
        return _run(program, table.AUDIT_ARCH, number, *arguments)

    for number in (*table.EVERYWHERE.values(), *table.SERVER_ONLY.values()):
        assert verdict(number) == _ALLOW
    for number in table.SETUP.values():
        assert verdict(number) == _EPERM
    calls = table.FILTERED
    assert verdict(calls["clone"], 17) == _ALLOW
    for namespace in (0x10000000, 0x20000000, 0x40000000, 0x00020000 | 0x02000000, 0x04000000):
        assert verdict(calls["clone"], namespace | 17) == _EPERM
    assert verdict(calls["clone3"]) == _ENOSYS
    assert verdict(calls["ioctl"], 0, 0x541B) == _ALLOW
    assert verdict(calls["ioctl"], 0, 0x5412) == _ENOTTY  # TIOCSTI
    assert verdict(470) == _ENOSYS
    named = {*table.EVERYWHERE.values(), *table.SERVER_ONLY.values(), *table.FILTERED.values()}
    assert {verdict(n) for n in set(range(463)) - named} == {_EPERM}
    assert _run(program, 0x40000003, 1) == _KILL  # another architecture's calls
    assert verdict(0x40000000 + 1) == _KILL


def test_the_job_filter(table: ModuleType) -> None:
    calls = table.FILTERED

    def verdict(number: int, *arguments: int, fork: bool = False) -> int:
        program = seccomp.job_filter(77, fork)
        return _run(program, table.AUDIT_ARCH, number, *arguments)

    assert verdict(calls["clone"], 17) == _EAGAIN
    assert verdict(calls["clone"], 17, fork=True) == _ALLOW
    assert verdict(calls["clone"], 0x10000 | 0x100) == _ALLOW  # a thread
    for pid, expected in ((77, _ALLOW), (1, _EPERM), (-1, _EPERM), (0, _EPERM), (-77, _EPERM)):
        assert verdict(calls["kill"], pid) == expected
        assert verdict(calls["tgkill"], pid) == expected
    assert verdict(calls["prlimit64"], 0, 0, 0) == _ALLOW
    assert verdict(calls["prlimit64"], 0, 0, 1) == _EPERM
    assert verdict(calls["prlimit64"], 0, 0, 1 << 32) == _EPERM
    fcntl = table.EVERYWHERE["fcntl"]
    for request in (8, 10, 15):  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to a pipe's owner
        assert verdict(fcntl, 3, request, 1) == _EPERM
        assert verdict(fcntl, 3, request, 1, fork=True) == _EPERM
    for request in (0, 1, 2, 3, 4, 6, 9, 1030):  # F_DUPFD to F_SETLK, F_GETOWN, F_DUPFD_CLOEXEC
        assert verdict(fcntl, 3, request) == _ALLOW
    assert "memfd_create" in table.SERVER_ONLY
    for number in table.SERVER_ONLY.values():
        assert verdict(number) == _EPERM
        assert verdict(number, fork=True) == _EPERM


_CHANGES = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "utimensat")


def test_modes_and_times_are_left_alone_where_the_host_s_files_can_be_reached(
    table: ModuleType,
) -> None:
    numbers = [table.EVERYWHERE[name] for name in _CHANGES if name in table.EVERYWHERE]
    for inherits in (False, True):
        program = seccomp.job_filter(77, False, rooted=False, inherits=inherits)
        assert {_run(program, table.AUDIT_ARCH, n, 3, 0) for n in numbers} == {_EPERM}
    program = seccomp.job_filter(77, False, rooted=True)
    assert {_run(program, table.AUDIT_ARCH, n, 3, 0) for n in numbers} == {_ALLOW}


def test_inherited_descriptors_keep_no_message(table: ModuleType) -> None:
    def verdict(name: str, *arguments: int) -> int:
        program = seccomp.job_filter(77, False, inherits=True)
        return _run(program, table.AUDIT_ARCH, table.EVERYWHERE[name], *arguments)

    assert verdict("fchmod", 1, 0o600) == _EPERM
    path = 1 << 32  # its lower half is null
    assert verdict("utimensat", 3, 0, 1, 0) == verdict("utimensat", 3, path, 1, 0x1000) == _EPERM
    assert verdict("utimensat", 3, path, 1, 0) == verdict("utimensat", 3, 7, 1, 0x100) == _ALLOW
    # F_SETFL, F_SETOWN, F_SETSIG, F_OFD_SETLK, F_SETLEASE, F_SETPIPE_SZ, F_ADD_SEALS, F_SET_RW_HINT
    for request in (4, 8, 10, 15, 37, 38, 1024, 1031, 1033, 1036, 1038):
        assert verdict("fcntl", 1, request) == _EPERM
    for request in (0, 1, 2, 3, 6, 7, 1030):
        assert verdict("fcntl", 1, request) == _ALLOW


def test_the_tables_name_no_call_twice(table: ModuleType) -> None:
    groups = (table.EVERYWHERE, table.SERVER_ONLY, table.FILTERED, table.SETUP)
    numbers = [number for group in groups for number in group.values()]
    assert len(numbers) == len(set(numbers))
    assert table.SUPPORTED


def test_what_must_never_be_allowed_is_not_named() -> None:
    named = {*syscalls.EVERYWHERE, *syscalls.SERVER_ONLY}
    assert not named & {
        "execve", "execveat", "ptrace", "socket", "socketpair", "connect", "bind", "mount",
        "unshare", "setns", "bpf", "keyctl", "add_key", "request_key", "io_uring_setup",
        "userfaultfd", "perf_event_open", "process_vm_readv", "process_vm_writev", "chroot",
        "open_by_handle_at", "personality", "inotify_init1", "inotify_add_watch",
        "setuid", "setresuid", "init_module", "kexec_load",
    }  # fmt: skip
