"""Which protections exist, which are required, and what their absence means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from astor_rl.errors import SandboxError

GUARANTEES: Final[Mapping[str, str]] = {
    "userns": "an ordinary user may build the other namespaces",
    "mountns": "mounts of its own, unseen by the host",
    "root": "a private file system: read-only libraries, an empty scratch directory, no /proc",
    "pidns": "a job sees and signals only its own processes; they all die together",
    "netns": "no network interface",
    "ipcns": "no System V or POSIX IPC with the host",
    "utsns": "the host's name can't be changed",
    "uid": "jobs don't run as root",
    "capabilities": "no privileged kernel interface",
    "no_new_privs": "no exec can gain privileges",
    "seccomp": "no sockets, exec, ptrace, mounts, namespaces, keyrings, bpf, io_uring",
    "landlock": "files outside the given paths can't be opened, whatever else fails",
    "pdeathsig": "everything dies when the trainer is killed",
    "nodump": "a job can't read the memory of the process it was forked from",
}
"""Protection -> what holds while it is in force."""

_SPARE: Final = frozenset({"landlock"})
"""Second walls: their absence costs nothing while the private root stands."""


def required_missing(applied: Collection[str], missing: Mapping[str, str]) -> dict[str, str]:
    """The protections whose absence must stop the sandbox unless it is allowed by name."""
    spare = _SPARE if "root" in applied else frozenset()
    return {name: why for name, why in missing.items() if name not in spare}


def tier(applied: Collection[str], missing: Mapping[str, str]) -> str:
    """`full`; `landlock`: no private root, but Landlock and seccomp hold; or `unsafe`."""
    if not required_missing(applied, missing):
        return "full"
    return "landlock" if {"landlock", "seccomp"} <= set(applied) else "unsafe"


def check(applied: Collection[str], missing: Mapping[str, str], allowed: Collection[str]) -> None:
    """Stop unless every missing protection was allowed by name.

    Raises:
        SandboxError: names those that were not.
    """
    stop = {n: why for n, why in required_missing(applied, missing).items() if n not in allowed}
    if stop:
        listed = "; ".join(f"{name} ({why}): {GUARANTEES[name]}" for name, why in stop.items())
        names = ", ".join(repr(name) for name in stop)
        raise SandboxError(
            f"the sandbox lacks {listed}; provide it or pass allow_missing=({names},)"
        )


def check_names(allowed: Collection[str]) -> None:
    """Refuse names that aren't protections.

    Raises:
        SandboxError: names the unknown ones and the known.
    """
    if unknown := sorted(set(allowed) - set(GUARANTEES)):
        raise SandboxError(
            f"allow_missing names {', '.join(map(repr, unknown))}; known: {', '.join(GUARANTEES)}"
        )
