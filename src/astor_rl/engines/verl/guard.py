"""verl's interfaces change with every release: this engine runs with one version or not at all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

from astor_rl.errors import DependencyError

VERL = "0.9.1"
"""The version that every module of this room was written against and tested with."""

_HOW = "in an environment of its own: make setup-verl, or pip install 'astor-rl[verl]'"


def require_verl(version_of: Callable[[str], str] = metadata.version) -> None:
    """Check that verl and what its trainer needs are installed.

    Args:
        version_of: asked for a distribution's version; raises `PackageNotFoundError`.

    Raises:
        DependencyError: verl is missing or of another version, or TransferQueue is missing, which
            verl's default trainer imports and its wheel doesn't ask for.
    """
    try:
        found = version_of("verl")
    except metadata.PackageNotFoundError:
        raise DependencyError(f"engine = \"verl\" needs package 'verl' {VERL}, {_HOW}") from None
    if found != VERL:
        raise DependencyError(
            f"verl is {found}; this engine runs with {VERL} and no other: pip install verl=={VERL}"
        )
    try:
        version_of("TransferQueue")
    except metadata.PackageNotFoundError:
        raise DependencyError(
            f"verl {VERL}'s trainer needs package 'TransferQueue', which its wheel doesn't bring, "
            f"{_HOW}"
        ) from None
