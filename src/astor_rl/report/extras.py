"""What the extras of this distribution ask for, and which of them a missing module belongs to."""

from __future__ import annotations

import importlib.metadata
import re

DISTRIBUTION = "astor-rl"


def extras() -> dict[str, tuple[str, ...]]:
    """What each extra of this distribution asks for, as requirement texts, by extra."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires(DISTRIBUTION) or ():
        requirement, _, marker = line.partition(";")
        for extra in re.findall(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker):
            found.setdefault(extra, []).append(requirement.strip())
    return {extra: tuple(lines) for extra, lines in found.items()}


def extra_of(module: str) -> str | None:
    """The extra that installs an importable module; None when no extra does."""
    for extra, requirements in extras().items():
        for requirement in requirements:
            if name_of(requirement).replace("-", "_").lower() == module.partition(".")[0].lower():
                return extra
    return None


def name_of(requirement: str) -> str:
    """The distribution that a requirement text asks for."""
    return re.split(r"[\s<>=!~\[;(]", requirement, maxsplit=1)[0]
