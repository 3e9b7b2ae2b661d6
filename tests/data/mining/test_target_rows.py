from __future__ import annotations

import ast

import pytest

from astor_rl.data.mining.functions import Subject
from astor_rl.data.mining.target_rows import MAX_MUTANTS, _extended, target_rows
from astor_rl.data.rows import Row
from astor_rl.sandbox.api import TestsJob
from astor_rl.sandbox.pool import ProcessPool


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture(scope="module")
def rows(subjects: list[Subject], sandbox: ProcessPool) -> list[Row]:
    return list(target_rows(subjects, sandbox, per_unit=3, seed=0, progress=silent))


def test_reference_tests_pass_and_kill_every_mutant(rows: list[Row], sandbox: ProcessPool) -> None:
    """Run as the task runs them: as a test module, not as the calls they were made from."""
    assert len(rows) > 30
    chosen = rows[::4]
    jobs = [
        TestsJob(
            module="focal",
            targets=(row.fields["code"], *(m["code"] for m in row.fields["mutants"])),
            tests=row.fields["reference_tests"],
        )
        for row in chosen
    ]
    for row, outcome in zip(chosen, sandbox.map(jobs), strict=True):
        right, *wrong = outcome.targets
        assert (right.status, right.failed) == ("ok", ()), row.origin
        assert all(target.status != "ok" or target.failed for target in wrong), row.origin


def test_the_docstring_shows_examples(rows: list[Row]) -> None:
    for row in rows:
        fields = row.fields
        assert set(fields) == {
            "id", "source", "module", "entry_point", "code", "description", "reference_tests",
            "mutants", "difficulty",
        }  # fmt: skip
        assert fields["module"] == "focal.py"
        assert fields["code"].count(f">>> {fields['entry_point']}(") == 2
        assert 2 <= fields["reference_tests"].count("assert ") <= 4
        functions = [n for n in ast.parse(fields["code"]).body if isinstance(n, ast.FunctionDef)]
        assert ast.get_docstring(functions[-1])


def test_mutants_say_where_they_differ(rows: list[Row]) -> None:
    for row in rows:
        original = row.fields["code"].splitlines()
        mutants = row.fields["mutants"]
        assert 2 <= len(mutants) <= MAX_MUTANTS
        assert len({m["code"] for m in mutants}) == len(mutants)
        for mutant in mutants:
            changed = mutant["code"].splitlines()
            assert len(changed) == len(original)
            differing = [
                n for n, (a, b) in enumerate(zip(original, changed, strict=True), 1) if a != b
            ]
            assert differing == [mutant["line"]]


def test_one_function_gives_different_questions(rows: list[Row]) -> None:
    codes = [row.fields["code"] for row in rows]
    assert len(set(codes)) == len(codes)
    assert len({row.unit for row in rows}) < len(rows)


def test_reference_begins_with_what_is_shown(rows: list[Row]) -> None:
    for row in rows:
        shown = [line.strip()[4:] for line in row.fields["code"].splitlines() if ">>> " in line]
        tests = row.fields["reference_tests"]
        first = [line.strip() for line in tests.splitlines() if "assert " in line][: len(shown)]
        assert len(shown) == 2
        assert [line.split(" == ")[0] for line in first] == [f"assert {call}" for call in shown]


def test_extended_takes_what_kills_most_of_what_is_left() -> None:
    kills = [{0, 2}, {2}, {2, 1}, {3}]
    assert _extended([0, 1], kills, 4) == [0, 1, 2, 3]
    assert _extended([2, 0], kills, 4) == [2, 0, 3]  # nothing that kills no more
    assert _extended([0, 1], [{0}, {1}, {2}, {3}, {4}], 5) == [0, 1, 2, 3]  # never more than four
