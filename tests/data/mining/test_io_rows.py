from __future__ import annotations

import ast
from collections import Counter

from astor_rl.data.mining.functions import Subject
from astor_rl.data.mining.io_rows import MAX_CODE, MAX_INPUT, MAX_OUTPUT, io_rows
from astor_rl.sandbox.api import CallJob
from astor_rl.sandbox.pool import ProcessPool


def test_every_pair_is_true(subjects: list[Subject], sandbox: ProcessPool) -> None:
    rows = [row.fields for row in io_rows(subjects, per_unit=6, seed=0)]
    assert len(rows) > 80
    jobs = [CallJob(f["code"], (f"{f['entry_point']}({f['input']})",)) for f in rows]
    for fields, outcome in zip(rows, sandbox.map(jobs), strict=True):
        assert outcome.calls[0].value == ast.literal_eval(fields["output"])


def test_rows_are_short_and_various(subjects: list[Subject]) -> None:
    rows = list(io_rows(subjects, per_unit=6, seed=0))
    by_unit: dict[str, list[str]] = {}
    for row in rows:
        assert set(row.fields) == {
            "id", "source", "entry_point", "code", "input", "output", "difficulty",
        }  # fmt: skip
        assert len(row.fields["code"]) <= MAX_CODE
        assert len(row.fields["input"]) <= MAX_INPUT
        assert len(row.fields["output"]) <= MAX_OUTPUT
        assert '"""' not in row.fields["code"]
        by_unit.setdefault(row.unit, []).append(row.fields["output"])
    for outputs in by_unit.values():
        assert len(outputs) <= 6
        if len(outputs) > 1:
            assert max(Counter(outputs).values()) <= 3
    assert len({row.fields["id"] for row in rows}) == len(rows)


def test_it_repeats_itself(subjects: list[Subject]) -> None:
    assert list(io_rows(subjects, per_unit=6, seed=0)) == list(
        io_rows(subjects, per_unit=6, seed=0)
    )
