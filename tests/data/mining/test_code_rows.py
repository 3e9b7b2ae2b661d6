from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from astor_rl.code.slicing import ModuleSlicer
from astor_rl.data.mining.code_rows import MAX_FUNCTION, MAX_PROMPT, _cuts, code_rows
from astor_rl.data.mining.functions import Call, Subject
from astor_rl.data.rows import Row
from astor_rl.sandbox.api import CallJob
from astor_rl.sandbox.pool import ProcessPool


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture(scope="module")
def rows(subjects: list[Subject], sandbox: ProcessPool) -> list[Row]:
    return list(code_rows(subjects, sandbox, per_unit=4, seed=0, progress=silent))


def passes(source: str, row: Row, sandbox: ProcessPool) -> bool:
    tests = "\n".join(f"    {line}" for line in row.fields["tests"])
    code = f"{source}\n\ndef run_tests():\n{tests}\n    return True\n"
    (outcome,) = sandbox.map([CallJob(code, ("run_tests()",))])
    return outcome.status == "ok" and outcome.calls[0].value is True


def test_references_pass_and_doing_nothing_fails(rows: list[Row], sandbox: ProcessPool) -> None:
    assert len(rows) > 40
    for row in rows[::2]:
        assert passes(row.fields["reference"], row, sandbox)
        given = row.fields["given"] or row.fields["prompt"]
        prelude = row.fields["prompt"].split(f"def {row.fields['entry_point']}(")[0]
        nothing = f"{prelude}\n{given.rstrip()}\n"
        body = nothing.rstrip().splitlines()[-1]
        indent = len(body) - len(body.lstrip()) + (4 if body.endswith(":") else 0)
        assert not passes(nothing + " " * indent + "pass\n", row, sandbox)


def test_prompts_are_short_and_show_examples(rows: list[Row]) -> None:
    for row in rows:
        fields = row.fields
        assert set(fields) == {
            "id", "source", "prompt", "entry_point", "signature", "reference", "tests", "setup",
            "given", "difficulty",
        }  # fmt: skip
        assert len(fields["prompt"]) <= MAX_PROMPT + 1
        assert fields["prompt"].count(f">>> {fields['entry_point']}(") == 2
        assert fields["signature"].startswith(f"def {fields['entry_point']}(")
        assert len(fields["tests"]) == 4
        ast.parse(fields["prompt"])  # a function whose body is its docstring


def test_given_is_the_beginning_of_the_function(rows: list[Row]) -> None:
    given = [row for row in rows if row.fields["given"]]
    assert given
    for row in given:
        lines = row.fields["given"].splitlines()
        end = max(n for n, line in enumerate(lines) if line.strip().endswith('"""'))
        assert "\n".join(lines[end + 1 :]) in row.fields["reference"]
        assert lines[0] in row.fields["signature"]


def test_hiding_less_is_easier(rows: list[Row]) -> None:
    by_unit: dict[str, list[Row]] = {}
    for row in rows:
        by_unit.setdefault(row.unit, []).append(row)
    pairs = [
        (row, other)
        for group in by_unit.values()
        for row in group
        for other in group
        if row.fields["given"] and not other.fields["given"]
    ]
    assert pairs
    easier = sum(row.difficulty < other.difficulty for row, other in pairs)
    assert easier > 0.9 * len(pairs)


def test_what_a_constant_or_an_echo_solves_is_dropped(
    subjects: list[Subject], sandbox: ProcessPool
) -> None:
    def made(source: str, calls: list[tuple[str, str]]) -> list[Row]:
        part = next(iter(ModuleSlicer(source).slices()))
        found = tuple(Call(text, output, 3) for text, output in calls)
        subject = replace(subjects[0], slice=part, unit="m.f", calls=found)
        return list(code_rows([subject], sandbox, per_unit=4, seed=0, progress=silent))

    zeros = [(str(n), "0") for n in range(1, 6)]
    assert made("def f(n):\n    m = n - n\n    return m\n", zeros) == []
    echo = [(str(n), str(n)) for n in range(1, 6)]
    assert made("def f(n):\n    m = n + 0\n    return m\n", echo) == []
    assert made("def f(n):\n    m = n + 1\n    return m\n", echo) == []  # the calls are not true
    double = [(str(n), str(2 * n)) for n in range(1, 6)]
    assert made("def f(n):\n    m = n + n\n    return m\n", double)
    long = "def f(n):\n" + "    n = n + 0\n" * (MAX_FUNCTION // 10) + "    return n + n\n"
    assert made(long, double) == []


def test_cuts_leave_valid_code() -> None:
    source = (
        "def f(x):\n    if x:\n        return 1\n    elif x is None:\n        return 2\n"
        "    for y in x:\n        a = y\n        b = a\n"
    )
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert _cuts(node) == [8, 7, 6, 2]
    lines = source.splitlines()
    for cut in _cuts(node):
        first = lines[cut - 1]
        indent = " " * (len(first) - len(first.lstrip()))
        ast.parse("\n".join([*lines[: cut - 1], indent + "pass"]))
