"""`python -m benchmarks.learning.tuning`: laboratory A's data for choosing options.

As much as the test split, so that options can be told apart, and from a stream of its own: no
program of it means the same as one of the other splits, and no row repeats a training row by the
product's own rule, so that the product trains on all of those.
"""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.data.decontaminate import HeldOutIndex
from astor_rl.data.rows import Row as DataRow
from benchmarks.learning.build import build
from benchmarks.learning.data import Unit, make_units, write_units
from benchmarks.learning.laboratory import LABORATORIES, Laboratory

SPLIT = "tuning"
COUNT = 320


def fresh_units(laboratory: Laboratory, name: str, count: int) -> list[Unit]:
    """Programs with their rows, from the stream of that name."""
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


def main() -> None:
    """Write the data."""
    laboratory = LABORATORIES["a"]
    build(laboratory)
    write_units(laboratory, {SPLIT: fresh_units(laboratory, SPLIT, COUNT)})


if __name__ == "__main__":
    main()
