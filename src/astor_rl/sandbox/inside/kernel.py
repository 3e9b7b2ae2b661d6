"""The Linux calls that Python's `os` doesn't offer, by ctypes. Each raises OSError on failure."""

from __future__ import annotations

import _thread
import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any, Final

from astor_rl.sandbox.inside import syscalls

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_ADDR_NO_RANDOMIZE = 0x0040000
_LAST_CAPABILITY = 63  # the kernel refuses those it doesn't know
_CAPABILITY_VERSION_3 = 0x20080522
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 1, 2
_SECCOMP_SET_MODE_FILTER = 1

_libc = ctypes.CDLL(None, use_errno=True)
_quiet = ctypes.PyDLL(None)  # for a process with a single thread: nothing is unlocked around a call
_fork = _quiet.fork
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.personality.argtypes = [ctypes.c_ulong]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(name: str, *arguments: Any) -> int:
    number = syscalls.SETUP.get(name, syscalls.SERVER_ONLY.get(name))
    if number is None:
        raise OSError(38, f"{name}: no system call table for {syscalls.MACHINE}")
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    return _check(result, name)


def _path(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("instructions", ctypes.c_ushort), ("code", ctypes.c_char_p))


# Made once: each job loads a filter, and every object it makes for that is on a page to be copied.
_program = _Program()
_FILTER_ARGUMENTS: Final = (
    ctypes.c_uint(_SECCOMP_SET_MODE_FILTER),
    ctypes.c_uint(0),
    ctypes.byref(_program),
)


_IS_KNOWN: Final = sys.version_info < (3, 14) and not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Whether what Python does after a fork was looked into: 3.11 to 3.13, with an interpreter lock."""
_status = ctypes.c_int()
_usage = (ctypes.c_long * 18)()
"""`struct rusage`: four times for CPU time, then the peak."""
_WAIT_ARGUMENTS: Final = (ctypes.byref(_status), 0, ctypes.byref(_usage))


def fork(*, hooks: bool = False) -> int:
    """fork(2) without what Python does around it, where it is known that this can be left out.

    Python's own part makes anew the locks that other threads might have held (of the interpreter,
    of imports, of `threading`, `logging`, ...), forgets these threads and what signals they were
    sent, and seeds `random`. With one thread, which holds none of these locks and has no handler,
    only the last does anything, and jobs seed it themselves. But it writes to a hundred pages,
    which have to be copied: as expensive as the fork itself.

    Args:
        hooks: whether others than the standard library may have asked to be told of forks.

    Raises:
        OSError: no process can be had.
    """
    if hooks or not _IS_KNOWN or _thread._count():
        return os.fork()
    pid: int = _fork()
    if pid < 0:
        raise OSError("no process can be forked")
    return pid


def wait(pid: int) -> tuple[int, float, int]:
    """wait4(2) for a child: (status, CPU seconds, peak resident KiB).

    `os.wait4` imports a module for its result each time: a process that has just forked would
    copy dozens of pages for it.

    Raises:
        OSError: there is no such child.
    """
    if _quiet.wait4(pid, *_WAIT_ARGUMENTS) != pid:
        raise OSError(f"process {pid} can't be waited for")
    seconds = _usage[0] + _usage[2] + (_usage[1] + _usage[3]) * 1e-6
    return _status.value, seconds, _usage[4]


def kill_all(signal_number: int) -> None:
    """Signal every process that there is besides this one and the first of its namespace."""
    _quiet.kill(-1, signal_number)


def reap() -> bool:
    """Wait for any one child; False without children. For a process without signal handlers: no
    signal cuts it short.
    """
    return bool(_quiet.waitpid(-1, None, 0) > 0)


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW* flags for fresh ones."""
    _check(_libc.unshare(flags), "unshare")


def mount(
    source: str | None,
    target: str,
    kind: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount(2)."""
    _check(
        _libc.mount(_path(source), _path(target), _path(kind), flags, _path(data)),
        f"mount {target}",
    )


def unmount(target: str) -> None:
    """Detach a mount and everything below it, now for lookups and later for open files."""
    _check(_libc.umount2(_path(target), _MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root directory and put the former one at `old`."""
    _syscall("pivot_root", _path(new), _path(old))


def make_read_only(target: str) -> None:
    """Make a bind mount and all mounts below it read-only and nosuid (Linux 5.12)."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    _syscall(
        "mount_setattr",
        ctypes.c_int(_AT_FDCWD),
        _path(target),
        ctypes.c_uint(_AT_RECURSIVE),
        attributes,
        ctypes.c_size_t(len(attributes)),
    )


def _prctl(what: str, option: int, *arguments: int) -> None:
    _check(_libc.prctl(option, *arguments, *(0,) * (4 - len(arguments))), what)


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent *thread* ends. A change of uid clears it."""
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, signal_number)


def forbid_attach() -> None:
    """Not dumpable: no ptrace and no /proc/<pid>/mem for others of the same uid."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the reaper of descendants whose parent dies (where no pid namespace does it)."""
    _prctl("PR_SET_CHILD_SUBREAPER", _PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """No exec can gain privileges from here on."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def fix_addresses() -> bool:
    """Turn address randomisation off for the next exec; False where it was off already."""
    before: int = _libc.personality(0xFFFFFFFF)
    if before < 0 or before & _ADDR_NO_RANDOMIZE:
        return False
    return bool(_libc.personality(before | _ADDR_NO_RANDOMIZE) >= 0)


def drop_bounding_set() -> None:
    """Make every capability unreachable for good. Needs CAP_SETPCAP; harmless without."""
    for capability in range(_LAST_CAPABILITY + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _syscall("capset", header, struct.pack("6I", *(0,) * 6))


def install_filter(program: bytes) -> None:
    """Load a seccomp BPF program of 8-byte instructions. Needs `no_new_privileges` first."""
    _program.instructions, _program.code = len(program) // 8, program
    _syscall("seccomp", *_FILTER_ARGUMENTS)


# Landlock: one bit an access right, in the order the ABI versions added them.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_TRUNCATE = 1 << 14
_RIGHTS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_RIGHTS_LATEST: Final = 16
_READ_ONLY: Final = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE


def landlock_abi() -> int:
    """The version the kernel offers.

    Raises:
        OSError: it offers none.
    """
    return _syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(1))


def restrict_paths(read: Sequence[str], write: Sequence[str]) -> None:
    """Landlock: files outside `read` and `write` can't be opened; no TCP; no outward signals.

    Paths that don't exist are left out. Needs `no_new_privileges` first.
    """
    abi = landlock_abi()
    all_rights = (1 << _RIGHTS_BY_ABI.get(abi, _RIGHTS_LATEST)) - 1
    network = 3 if abi >= 4 else 0
    scope = 3 if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    attributes = struct.pack("QQQ", all_rights, network, scope)[:size]
    ruleset = _syscall(
        "landlock_create_ruleset", attributes, ctypes.c_size_t(size), ctypes.c_uint(0)
    )
    writable = all_rights & ~(_EXECUTE | _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK)
    try:
        for paths, rights in ((read, _READ_ONLY), (write, writable)):
            for path in filter(os.path.exists, paths):
                _allow_path(ruleset, path, rights & all_rights)
        _syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    if not os.path.isdir(path):
        rights &= _FILE_RIGHTS
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, descriptor)
        _syscall(
            "landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0)
        )
    finally:
        os.close(descriptor)
