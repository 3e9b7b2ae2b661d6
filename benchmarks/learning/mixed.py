"""`python -m benchmarks.learning.mixed`: two tasks for laboratory A that teach nothing.

Real collections have data whose answers belong to other rows: a join gone wrong, a column shifted.
Here each row of `io-mixed` asks for the value that another row's function gives, and each row of
`code-mixed` describes one function and tests another; its own reference passes, so that no check of
the row finds out. The functions are fresh ones: no other task has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.learning.build import build
from benchmarks.learning.fresh import fresh_units
from benchmarks.learning.laboratory import LABORATORIES, Laboratory
from benchmarks.learning.rows import Row

COUNTS = {"train": 240, "validation": 16, "test": 16}
"""As much to train on as every other task has; what it scores is not what it is there for."""
_TAKEN = {"io": ("output",), "code": ("prompt",)}
"""What a row takes from the one after it."""


def mixed_rows(laboratory: Laboratory) -> dict[str, list[Row]]:
    """Rows by `TASK-mixed-SPLIT`."""
    units = iter(fresh_units(laboratory, "mixed", sum(COUNTS.values())))
    found: dict[str, list[Row]] = {}
    for split, count in COUNTS.items():
        members = [next(units) for _ in range(count)]
        for task, fields in _TAKEN.items():
            rows = [rows[task] for _, rows in members]
            found[f"{task}-mixed-{split}"] = _shifted(rows, fields)
    return found


def _shifted(rows: Sequence[Row], fields: Sequence[str]) -> list[Row]:
    after = [*rows[1:], rows[0]]
    return [
        {**row, **{field: other[field] for field in fields}}
        for row, other in zip(rows, after, strict=True)
    ]


def main() -> None:
    """Write the data."""
    laboratory = LABORATORIES["a"]
    build(laboratory)
    for name, rows in mixed_rows(laboratory).items():
        lines = (json.dumps({"unit": f"{name}-{n}", **row}) for n, row in enumerate(rows))
        path = laboratory.folder / f"{name}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
