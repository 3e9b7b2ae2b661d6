"""Train, validation and test, such that no function is on two sides, in one task or across.

Rows that share a unit, or code of the same identifier-blind shape, form a component; a component
goes to one split as a whole. Which one is decided by a hash of the seed and of one of its units,
so adding data moves nothing but the components that the new rows join.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, TypeVar, get_args

from astor_rl.code.fingerprint import fingerprint, function_fingerprints
from astor_rl.data.mining.commit_rows import HELD_OUT_OPERATORS
from astor_rl.data.rows import Row
from astor_rl.errors import ConfigError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_Name = TypeVar("_Name", bound=str)

_MIN_NODES = 30


@dataclass(frozen=True, slots=True)
class Splits:
    """One task's rows by split, in the order they came.

    Attributes:
        train, validation, test: the rows.
        left_out: rows of held-out edit operators that would have been in train or validation.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    left_out: tuple[Row, ...] = ()


def split_all(
    tasks: Mapping[_Name, Sequence[Row]],
    *,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
) -> dict[_Name, Splits]:
    """Split the rows of all tasks together.

    Args:
        tasks: rows by task name.
        seed: decides which components go where.
        validation, test: expected shares of the components, in [0, 1), together below 1.

    Raises:
        ConfigError: the shares don't fit.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ConfigError(
            f"splits of {validation} validation and {test} test leave nothing to train on; "
            "each must be >= 0 and their sum below 1"
        )
    components = _Components()
    for rows in tasks.values():
        for row in rows:
            components.join(labels(row))
    chosen = components.representatives(seed)

    def split_of(row: Row) -> Split:
        share = _hash("split", seed, chosen[components.find(f"unit:{row.unit}")]) / 2**64
        return "test" if share < test else "validation" if share < test + validation else "train"

    return {
        name: _sorted_out(rows, [split_of(row) for row in rows]) for name, rows in tasks.items()
    }


def _sorted_out(rows: Sequence[Row], splits: Sequence[Split]) -> Splits:
    found: dict[str, list[Row]] = {"train": [], "validation": [], "test": [], "left_out": []}
    for row, split in zip(rows, splits, strict=True):
        hidden = split != "test" and row.fields.get("op") in HELD_OUT_OPERATORS
        found["left_out" if hidden else split].append(row)
    return Splits(**{name: tuple(part) for name, part in found.items()})


def labels(row: Row) -> tuple[str, ...]:
    """What ties a row to others: its unit, the shape of its code, and of the larger functions in
    it. Two rows with a label in common are never separated."""
    found = [f"unit:{row.unit}"]
    for name in ("code", "reference"):
        source = row.fields.get(name)
        if isinstance(source, str):
            found += _shapes(source)
    return tuple(found)


@lru_cache(maxsize=1 << 14)
def _shapes(source: str) -> tuple[str, ...]:
    whole = fingerprint(source)
    parts = function_fingerprints(source, min_nodes=_MIN_NODES).values()
    return tuple(f"shape:{shape}" for shape in (whole, *parts) if shape is not None)


class _Components:
    """Union-find over labels."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, names: Sequence[str]) -> None:
        first = self.find(names[0])
        for name in names[1:]:
            self._parent[self.find(name)] = first

    def find(self, name: str) -> str:
        self._parent.setdefault(name, name)
        while self._parent[name] != name:
            self._parent[name] = name = self._parent[self._parent[name]]
        return name

    def representatives(self, seed: int) -> dict[str, str]:
        """root -> the unit whose hash is the least: the one that additions seldom replace."""
        best: dict[str, tuple[int, str]] = {}
        for name in self._units():
            root, rank = self.find(name), (_hash("rank", seed, name), name)
            best[root] = min(best.get(root, rank), rank)
        return {root: name for root, (_, name) in best.items()}

    def _units(self) -> Iterator[str]:
        return (name for name in list(self._parent) if name.startswith("unit:"))


def _hash(purpose: str, seed: int, name: str) -> int:
    digest = blake2b(f"{purpose}\0{seed}\0{name}".encode("utf-8", "replace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
