"""Programs that no split of a laboratory has, for more splits and tasks."""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.data.decontaminate import HeldOutIndex
from astor_rl.data.rows import Row as DataRow
from benchmarks.learning.data import Unit, make_units
from benchmarks.learning.laboratory import Laboratory


def fresh_units(laboratory: Laboratory, name: str, count: int) -> list[Unit]:
    """Programs with their rows, from the stream of that name.

    None means the same as a program of a split, and no row repeats a training row by the product's
    own rule, so that the product trains on all of those.
    """
    splits = make_units(laboratory)
    seen = {program.meaning for units in splits.values() for program, _ in units}
    train = [DataRow(row, "", "") for _, rows in splits["train"] for row in rows.values()]
    stream = laboratory.draws(name, laboratory.levels, rare=1.0)
    found: list[Unit] = []
    while True:
        while len(found) < count:
            program, rows = next(stream)
            if program.meaning not in seen:
                seen.add(program.meaning)
                found.append((program, rows))
        repeated = _repeated(found, train)
        if not repeated:
            return found
        found = [unit for number, unit in enumerate(found) if number not in repeated]


def _repeated(units: Sequence[Unit], train: Sequence[DataRow]) -> set[int]:
    """Numbers of units because of which the product would drop a training row."""
    index = HeldOutIndex(
        DataRow(row, str(number), "")
        for number, (_, rows) in enumerate(units)
        for row in rows.values()
    )
    return {int(collision.with_origin) for collision in index.sift(train).dropped}
