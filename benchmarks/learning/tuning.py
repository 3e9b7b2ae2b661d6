"""`python -m benchmarks.learning.tuning`: laboratory A's data for choosing options.

As much as the test split, so that options can be told apart, and from a stream of its own: no
program of it means the same as one of the other splits, which stay as they are.
"""

from __future__ import annotations

from benchmarks.learning.build import build
from benchmarks.learning.data import Unit, make_units, write_units
from benchmarks.learning.laboratory import LABORATORIES, Laboratory

SPLIT = "tuning"
COUNT = 320


def tuning_units(laboratory: Laboratory, count: int = COUNT) -> list[Unit]:
    """Programs with their rows."""
    splits = make_units(laboratory).values()
    seen = {program.meaning for units in splits for program, _ in units}
    found: list[Unit] = []
    for program, rows in laboratory.draws(SPLIT, laboratory.levels, rare=1.0):
        if program.meaning not in seen:
            seen.add(program.meaning)
            found.append((program, rows))
        if len(found) == count:
            break
    return found


def main() -> None:
    """Write the data."""
    laboratory = LABORATORIES["a"]
    build(laboratory)
    write_units(laboratory, {SPLIT: tuning_units(laboratory)})


if __name__ == "__main__":
    main()
