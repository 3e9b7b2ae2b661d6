"""The laboratory's data: JSON lines for the product's tasks, by task and split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from astor_rl.data.decontaminate import HeldOutIndex
from astor_rl.data.rows import Row as DataRow
from benchmarks.learning.laboratory import Laboratory
from benchmarks.learning.programs import Program
from benchmarks.learning.rows import TASKS, Row

Unit = tuple[Program, dict[str, Row]]


def make_units(laboratory: Laboratory) -> dict[str, list[Unit]]:
    """Functions and their rows by split.

    No two functions mean the same. No training row repeats a held-out one by the product's own rule
    (`astor_rl.data.decontaminate`), so the product drops none of them.
    """
    seen: set[Program] = set()
    held_out: list[DataRow] = []
    found: dict[str, list[Unit]] = {}
    for split, count in laboratory.units:
        stream = laboratory.draws(split, laboratory.levels, rare=1.0)
        index = HeldOutIndex(held_out) if split == "train" else None
        units: list[Unit] = []
        while len(units) < count:
            program, rows = next(stream)
            if program.meaning in seen or _repeats(index, rows):
                continue
            seen.add(program.meaning)
            units.append((program, rows))
        held_out += [_data_row(row) for _, rows in units for row in rows.values()]
        found[split] = units
    return found


def _repeats(index: HeldOutIndex | None, rows: Mapping[str, Row]) -> bool:
    return index is not None and any(index.collision(_data_row(row)) for row in rows.values())


def _data_row(row: Row) -> DataRow:
    return DataRow(row, "", "")


def write_units(laboratory: Laboratory, units: Mapping[str, Sequence[Unit]]) -> None:
    """`TASK-SPLIT.jsonl` in the laboratory's folder, one line a function."""
    laboratory.folder.mkdir(parents=True, exist_ok=True)
    for split, members in units.items():
        for task in TASKS:
            lines = (
                json.dumps({"unit": f"{split}-{number}", **rows[task]})
                for number, (_, rows) in enumerate(members)
            )
            path = laboratory.folder / f"{task}-{split}.jsonl"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
