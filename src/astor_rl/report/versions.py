"""What a run was made with: Python, packages, machine, our code, the working folder's commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from hashlib import blake2b
from pathlib import Path
from typing import Any


def versions(folder: Path | None = None) -> dict[str, Any]:
    """JSON-ready. `git` is None where `folder` (default: the working one) is no repository."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages(),
        "code": CODE,
        "git": git_state(folder or Path.cwd()),
    }


def packages() -> dict[str, str]:
    """Every installed distribution and its version, by name."""
    found = (
        (distribution.metadata["Name"], distribution.version)
        for distribution in importlib.metadata.distributions()
    )
    return dict(sorted((name, version) for name, version in found if name))


def _code_digest() -> str:
    folder = Path(__file__).parents[1]
    found = blake2b(digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\0".encode())
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()


CODE = _code_digest()
"""A hash of this package's own modules: equal means the same code, wherever it lies.

Of what lay there when this was imported, as the modules themselves are.
"""


def git_state(folder: Path) -> dict[str, Any] | None:
    """`{"commit": ..., "dirty": ...}`; commit None before the first one; None without git."""
    if _git(folder, "rev-parse", "--is-inside-work-tree") != "true":
        return None
    status = _git(folder, "status", "--porcelain")
    return {
        "commit": _git(folder, "rev-parse", "--verify", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    # No optional locks: looking must not get in the way of a git command of the user's.
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
