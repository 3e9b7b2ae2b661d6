"""`python -m benchmarks.learning.tuning`: laboratory A's data for choosing options.

As much as the test split, so that options can be told apart, and of fresh programs.
"""

from __future__ import annotations

from benchmarks.learning.build import build
from benchmarks.learning.data import write_units
from benchmarks.learning.fresh import fresh_units
from benchmarks.learning.laboratory import LABORATORIES

SPLIT = "tuning"
COUNT = 320


def main() -> None:
    """Write the data."""
    laboratory = LABORATORIES["a"]
    build(laboratory)
    write_units(laboratory, {SPLIT: fresh_units(laboratory, SPLIT, COUNT)})


if __name__ == "__main__":
    main()
