"""Which protections this machine offers, found by building a jail and looking at what held."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

from astor_rl.errors import SandboxError
from astor_rl.sandbox import protections
from astor_rl.sandbox.worker import Profile, Zygote, ZygoteDied


@dataclass(frozen=True, slots=True)
class Facility:
    """One protection.

    Attributes:
        name: as `ProcessPool(allow_missing=...)` takes it.
        available: whether it held when it was tried.
        why: the kernel's reason if it did not, else empty or a remark.
        guarantees: what holds while it is in force.
    """

    name: str
    available: bool
    why: str
    guarantees: str


@lru_cache(maxsize=1)
def trial() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Build one jail: the protections that held, and (name, reason) of those that didn't.

    Raises:
        SandboxError: not on Linux, or no process could be started at all.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxError(f"the sandbox runs on Linux; this is {sys.platform}")
    try:
        zygote = Zygote(Profile(()), allowed=tuple(protections.GUARANTEES))
    except ZygoteDied as error:
        raise SandboxError(f"the sandbox can't start: {error}") from error
    try:
        return zygote.applied, tuple(zygote.missing.items())
    finally:
        zygote.close()


def facilities() -> list[Facility]:
    """Every protection, in the order of `protections.GUARANTEES`. Tried once a process.

    Raises:
        SandboxError: as `trial`.
    """
    applied, missing = trial()
    reasons = dict(missing)
    table = []
    for name, guarantees in protections.GUARANTEES.items():
        # Root needs no user namespace, and inside one there is no root to drop.
        needed = name in applied or name in reasons
        why = reasons.get(name, "" if needed else "not needed here")
        table.append(Facility(name, name not in reasons, why, guarantees))
    return table


def check(allowed: tuple[str, ...]) -> None:
    """Stop unless every missing protection is allowed by name.

    Raises:
        SandboxError: names those that aren't.
    """
    applied, missing = trial()
    protections.check(applied, dict(missing), allowed)
