"""Rows of the product's four tasks about one random program."""

from __future__ import annotations

import ast
import difflib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.learning.programs import Language, Program, Value, in_range

TASKS: Final = ("io", "code", "tests", "commits")
"""Names of the tasks in the laboratory's run files."""

LEVELS: Final = 5

Row = dict[str, Any]

_PROBES: Final = 24
_MUTANTS: Final = 3
_CHECKS: Final = 5
_TRIES: Final = 60
_SUBJECTS: Final = (
    "{new} instead of {old}",
    "replace {old} with {new}",
    "change {old} to {new}",
    "use {new}, not {old}",
)
_SUBJECT_WEIGHTS: Final = (6, 3, 1)


@dataclass(frozen=True, slots=True)
class Size:
    """How big the programs and lists of a level are; both ends included."""

    lines: tuple[int, int]
    items: tuple[int, int]
    largest: int


SIZES: Final = (
    Size((1, 1), (1, 3), 9),
    Size((1, 2), (2, 4), 9),
    Size((2, 3), (3, 5), 9),
    Size((3, 4), (4, 6), 15),
    Size((4, 5), (5, 7), 30),
)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the rows of one laboratory.

    Attributes:
        language: its operations and words.
        subjects: its ways to write a commit's subject, the usual one first.
        rare: how often rare operations are drawn, compared with common ones.
    """

    language: Language
    subjects: tuple[str, ...]
    rare: float

    def unit(self, rng: random.Random, level: int) -> tuple[Program, dict[str, Row]]:
        """A random program of a level, and one row of each task about it."""
        while True:
            length = rng.randint(*SIZES[level].lines)
            program = self.language.program(rng, length=length, rare=self.rare)
            rows = self.rows(rng, program, level)
            if rows is not None:
                return program, rows

    def rows(self, rng: random.Random, program: Program, level: int) -> dict[str, Row] | None:
        """One row of each task; None if the program is no good: constant, too large, untestable."""
        probes = [_values(rng, SIZES[level]) for _ in range(_PROBES)]
        results = [program(values) for values in probes]
        if not all(map(in_range, results)) or len({repr(result) for result in results}) < 4:
            return None
        mutants = self._mutants(rng, program, probes)
        edited, place = self.language.edited(rng, program)
        if not mutants or edited.meaning == program.meaning:
            return None
        tested = self._tested(program, mutants, probes)
        if tested is None:
            return None
        cases = list(zip(probes, results, strict=True))
        found = {
            "io": _io_row(rng, program, *cases[0]),
            "code": {
                "prompt": f"{self.language.description(program)}.",
                "entry_point": "f",
                "signature": f"def f({program.list_name})",
                "reference": program.source(),
                "tests": [_assertion(*case) for case in cases[:_CHECKS]],
            },
            "tests": {
                "module": "focal.py",
                "entry_point": "f",
                "code": program.source(),
                "reference_tests": f"def test_f():\n    {_assertion(tested, program(tested))}",
                "mutants": [{"code": mutant.source()} for mutant in mutants],
            },
            "commits": self._commit_row(rng, program, edited, place),
        }
        difficulty = _difficulty(program, cases[0])
        return {task: {**row, "difficulty": difficulty} for task, row in found.items()}

    def slipped(
        self, rng: random.Random, program: Program, rows: Mapping[str, Row]
    ) -> dict[str, Row]:
        """The rows with plausible wrong answers to the same prompts: those of an edited program."""
        edited, _ = self.language.edited(rng, program)
        io, code, tests, commits = (rows[task] for task in TASKS)
        if io["direction"] == "input":
            answer = {"input": repr([rng.randint(0, 9) for _ in ast.literal_eval(io["input"])])}
        else:
            answer = {"output": repr(edited(ast.literal_eval(io["input"])))}
        call, _, _ = tests["reference_tests"].rpartition(" == ")
        values = ast.literal_eval(call.partition("f([")[2].join(("[", "")).removesuffix(")"))
        old, new = commits["words"]
        (style,) = rng.choices(self.subjects, _SUBJECT_WEIGHTS)
        return {
            "io": {**io, **answer},
            "code": {**code, "reference": edited.source()},
            "tests": {**tests, "reference_tests": f"{call} == {edited(values)}"},
            "commits": {**commits, "subject": style.format(old=new, new=old)},
        }

    def _mutants(
        self, rng: random.Random, program: Program, probes: Sequence[list[int]]
    ) -> list[Program]:
        """Wrong versions of different meanings that differ on at least one of the probes."""
        found: dict[Program, None] = {}
        for _ in range(_TRIES):
            mutant, _ = self.language.edited(rng, program)
            if any(mutant(values) != program(values) for values in probes):
                found[mutant] = None
            if len(found) == _MUTANTS:
                return list(found)
        return []

    def _tested(
        self, program: Program, mutants: Sequence[Program], probes: Sequence[list[int]]
    ) -> list[int] | None:
        """The first short input that kills most mutants."""
        kills = [sum(m(values) != program(values) for m in mutants) for values in probes]
        return probes[kills.index(max(kills))] if max(kills) else None

    def _commit_row(
        self, rng: random.Random, program: Program, edited: Program, place: int | None
    ) -> Row:
        (style,) = rng.choices(self.subjects, _SUBJECT_WEIGHTS)
        old, new = (
            self.language.words(version.result)
            if place is None
            else self.language.line_words(version.lines[place])
            for version in (program, edited)
        )
        subject = style.format(old=old, new=new)
        diff = _diff(program.source(), edited.source())
        return {"diff": diff, "subject": subject, "words": [old, new]}


def make_maker(seed: int, language: Language, *, rare: float = 1.0) -> Maker:
    """The maker of a laboratory's rows."""
    rng = random.Random(f"subjects {seed}")
    subjects = tuple(rng.sample(_SUBJECTS, len(_SUBJECT_WEIGHTS)))
    return Maker(language, subjects, rare)


def _values(rng: random.Random, size: Size) -> list[int]:
    return [rng.randint(0, size.largest) for _ in range(rng.randint(*size.items))]


def _io_row(rng: random.Random, program: Program, values: list[int], result: Value) -> Row:
    return {
        "code": program.source(),
        "entry_point": "f",
        "input": repr(values),
        "output": repr(result),
        "direction": "input" if rng.random() < 0.25 else "output",
    }


def _assertion(values: Sequence[int], result: Value) -> str:
    return f"assert f({list(values)}) == {result}"


def _diff(old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "a/f.py", "b/f.py", lineterm="", n=2
    )
    return "\n".join(lines)


def _difficulty(program: Program, case: tuple[list[int], Value]) -> float:
    """In [0, 1], from the number of operations and the sizes of the input and output."""
    values, result = case
    operations = 1 + sum(
        sum(part is not None for part in (line.order, line.map, line.keep))
        for line in program.lines
    )
    shown = len(values) + (len(result) if isinstance(result, list) else 1)
    return round(0.5 * min(1, operations / 10) + 0.5 * min(1, shown / 20), 3)
