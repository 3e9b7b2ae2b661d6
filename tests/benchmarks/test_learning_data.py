from __future__ import annotations

import ast
import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from benchmarks.learning.data import make_units
from benchmarks.learning.fresh import fresh_units
from benchmarks.learning.laboratory import KINDS, LABORATORIES
from benchmarks.learning.mixed import COUNTS, mixed_rows
from benchmarks.learning.operations import OPERATIONS
from benchmarks.learning.programs import Line, Part, Program, in_range, make_language
from benchmarks.learning.rows import LEVELS, TASKS

from astor_rl.config import SandboxConfig
from astor_rl.data.decontaminate import HeldOutIndex
from astor_rl.data.rows import Row
from astor_rl.sandbox.opening import open_pool
from astor_rl.tasks.registry import make_task

SMALL = replace(
    LABORATORIES["a"], name="small", units=(("test", 30), ("validation", 10), ("train", 40))
)


def _operation(name: str) -> Part:
    return Part(next(o for o in OPERATIONS if o.name == name), 3)


def test_a_program_is_the_python_that_it_shows() -> None:
    line = Line(map=_operation("add"), keep=_operation("above"))
    program = Program((line, Line(order=_operation("reverse"))), _operation("sum"), "xs", "n")
    assert program.source() == (
        "def f(xs):\n    xs = [n + 3 for n in xs if n > 3]\n    xs = xs[::-1]\n    return sum(xs)"
    )
    assert program([1, 4, 5]) == 15
    assert program.meaning == replace(program, list_name="a", item_name="x")


def test_every_operation_can_be_said_and_run() -> None:
    for seed in range(6):
        language = make_language(seed)
        for kind, members in language.operations.items():
            for operation in members:
                part = Part(operation, operation.numbers[0] if operation.numbers else 0)
                lines = () if kind == "result" else (Line(**{kind: part}),)
                result = part if kind == "result" else _operation("list")
                assert in_range(Program(lines, result)([4, 1, 2]))
                assert language.words(part)


def test_an_edit_changes_one_part() -> None:
    language = make_language(0)
    rng = random.Random(0)
    for _ in range(200):
        program = language.program(rng, length=3, rare=1.0)
        edited, place = language.edited(rng, program)
        changed = [i for i in range(3) if edited.lines[i] != program.lines[i]]
        assert changed == ([] if place is None else [place])
        assert (edited.result != program.result) == (place is None)


def test_laboratories_speak_different_languages() -> None:
    a, b = (LABORATORIES[name].language() for name in ("a", "b"))
    for kind in a.operations:
        assert set(a.operations[kind]) != set(b.operations[kind])
    assert a.wordings != b.wordings
    assert a.rare
    assert a.rare != b.rare


@pytest.fixture(scope="module")
def units() -> dict[str, list[tuple[Program, dict[str, dict[str, object]]]]]:
    return make_units(SMALL)


def _data_rows(members: list[tuple[Program, dict[str, dict[str, object]]]]) -> list[Row]:
    return [Row(row, task, "") for _, of_task in members for task, row in of_task.items()]


def test_data_is_a_function_of_the_seed(units: dict[str, list[object]]) -> None:
    assert make_units(SMALL) == units
    assert make_units(replace(SMALL, seed=SMALL.seed + 1))["test"] != units["test"]


def test_splits_share_no_function_and_no_text_by_the_products_own_rule(
    units: dict[str, list[tuple[Program, dict[str, dict[str, object]]]]],
) -> None:
    meanings = [program.meaning for members in units.values() for program, _ in members]
    assert len(set(meanings)) == len(meanings) == 80

    train = _data_rows(units["train"])
    held_out = _data_rows([*units["validation"], *units["test"]])
    assert not HeldOutIndex(held_out).sift(train).dropped


def test_the_tuning_split_shares_no_function_with_the_others(
    units: dict[str, list[tuple[Program, dict[str, dict[str, object]]]]],
) -> None:
    found = fresh_units(SMALL, "tuning", 20)
    meanings = {program.meaning for program, _ in found}
    assert len(meanings) == 20
    assert meanings.isdisjoint(p.meaning for members in units.values() for p, _ in members)
    assert fresh_units(SMALL, "tuning", 20) == found
    assert not HeldOutIndex(_data_rows(found)).sift(_data_rows(units["train"])).dropped


def test_rows_say_how_hard_they_are(
    units: dict[str, list[tuple[Program, dict[str, dict[str, object]]]]],
) -> None:
    for _, rows in units["train"]:
        assert set(rows) == set(TASKS)
        (difficulty,) = {row["difficulty"] for row in rows.values()}
        assert isinstance(difficulty, float)
        assert 0 < difficulty <= 1
    hard = {round(float(str(rows["io"]["difficulty"])), 1) for _, rows in units["train"]}
    assert len(hard) >= LEVELS - 1


def test_the_product_judges_every_reference_right_and_every_broken_answer_wrong(
    units: dict[str, list[tuple[Program, dict[str, dict[str, object]]]]],
) -> None:
    with open_pool(SandboxConfig(workers=1)) as sandbox:
        for name, (kind, options) in KINDS.items():
            task = make_task(kind, options, sandbox)
            examples = [
                task.example(
                    {key: value for key, value in rows[name].items() if key != "difficulty"},
                    origin=f"{name} {number}",
                )
                for number, (_, rows) in enumerate(units["test"][:8])
            ]
            report = asyncio.run(task.validate(examples))
            assert report.checked == 8
            assert not report.invalid
            assert not report.gold_below_ceiling
            assert not report.broken_at_ceiling


def test_mixed_up_rows_have_the_answers_of_others_and_pass_their_own_checks() -> None:
    found = mixed_rows(SMALL)
    sizes = {name: len(rows) for name, rows in found.items()}
    assert sizes == {
        f"{task}-mixed-{split}": n for split, n in COUNTS.items() for task in ("io", "code")
    }
    io, code = found["io-mixed-train"], found["code-mixed-train"]
    for row, tested in zip(io, code, strict=True):
        assert row["code"] == tested["reference"]  # both rows are of one function
    honest = 0
    for row in io:
        space: dict[str, Any] = {}
        exec(str(row["code"]), space)
        result = space[str(row["entry_point"])](ast.literal_eval(str(row["input"])))
        honest += result == ast.literal_eval(str(row["output"]))
    assert honest < len(io) / 10  # small numbers agree by chance
    for row in code[:20]:
        space = {}
        exec(str(row["reference"]), space)
        for test in row["tests"]:  # type: ignore[attr-defined]
            exec(test, space)
