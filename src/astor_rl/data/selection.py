"""Choosing some of the rows: short ones first, or a fair mixture, never one function's only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal, get_args

from astor_rl.data.rows import Row
from astor_rl.errors import ConfigError

Order = Literal["easy", "mixed"]


def select(
    rows: Sequence[Row],
    *,
    max_examples: int | None = None,
    order: Order = "mixed",
    seed: int = 0,
) -> list[Row]:
    """Choose up to `max_examples` rows.

    Units take turns: every unit gives its first row before any gives its second, so that a few
    functions with many rows don't crowd out the others. The choice is by hash: the same rows in
    another order give the same result.

    Args:
        rows: any.
        max_examples: at most so many, >= 0; None for all.
        order: `easy`: the easiest rows of each unit, and the result from easy to hard; `mixed`:
            random rows in random order.
        seed: decides what is random.

    Raises:
        ConfigError: an option is out of its range.
    """
    if order not in get_args(Order):
        raise ConfigError(f"order is {order!r}; it must be one of {', '.join(get_args(Order))}")
    if max_examples is not None and max_examples < 0:
        raise ConfigError(f"max_examples is {max_examples}; it must be at least 0")

    def rank(row: Row) -> tuple[float, bytes]:
        noise = _noise(seed, row)
        return (row.difficulty if order == "easy" else 0.0, noise)

    turns: Counter[str] = Counter()
    taken: list[tuple[int, tuple[float, bytes], Row]] = []
    for row in sorted(rows, key=rank):
        taken.append((turns[row.unit], rank(row), row))
        turns[row.unit] += 1
    taken.sort(key=lambda entry: entry[:2])
    return [row for _, _, row in sorted(taken[:max_examples], key=lambda entry: entry[1])]


def _noise(seed: int, row: Row) -> bytes:
    name = f"{seed}\0{row.unit}\0{row.origin}\0{row.fields.get('id', '')}"
    return blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()
