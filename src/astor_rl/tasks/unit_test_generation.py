"""Unit tests: write tests that pass on the given code and fail on wrong versions of it.

**Gate.** The tests parse, pass the policy (`tests_policy`), at least one test is collected, at
least one assertion is evaluated, every test passes on the correct code, twice, and lines are
reached that importing the code doesn't run already (where there are any). They don't repeat a
definition of the code under test (comparing it with a copy says nothing of what is right), and an
assertion of theirs fails on at least one mutant: tests that call everything and check nothing
cover lines and kill the mutants that crash, too. Where a row has no mutants, or all of them crash
under these tests, an assertion must at least depend on a call of the code, as far as the source
shows. Otherwise the outcome is 0.

**Outcome.** Past the gate, the weighted mean of line coverage, branch coverage (coverage.py, as
`coverage run --branch` counts) and the share of mutants killed. A part that the code doesn't have
(no branches, no mutants) leaves its weight to the others. A mutant is killed when
it answers otherwise than the correct code and a test fails on it, or when it doesn't load, crashes
or runs out of time or memory where the correct code did not.

**Order.** The tests meet one to five mutants first, drawn in secret, then the correct code. If they
pass on it, what they asked of it is asked of all other versions. On those that answer otherwise,
and on a second copy of the correct code, the tests run again, each time in a fresh process that
can't tell which version it has. Tests that end differently on the same version earn 0, whether they
pass "the first time", "at random" or by what they remember.

**Ceiling.** What the reference answer (as many of the reference tests as the prompt allows)
reaches when run, measured once an example: it may leave a line uncovered (QuixBugs' own tests reach
0.997 of the lines). It is a level to compare with, not a bound. References that don't get past the
gate (too slow for the deadline, for one) have the ceiling 1, and `validate` reports them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from astor_rl.errors import ConfigError, SandboxError
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks import validation
from astor_rl.tasks.base import Pair, ValidationReport
from astor_rl.tasks.guard import guarded, guarded_async
from astor_rl.tasks.parsing import (
    defined_names,
    fenced,
    fences,
    is_one_python_fence,
    parse_python,
    parse_quietly,
)
from astor_rl.tasks.tests_judge import MutationJudge
from astor_rl.tasks.tests_oracle import checks_calls, copied_definition
from astor_rl.tasks.tests_policy import refusal
from astor_rl.tasks.tests_row import checked_row
from astor_rl.tasks.tests_source import (
    contradicted,
    count_tests,
    has_assertion,
    imported_names,
    shortened,
    with_imports,
    without_import_of,
    without_skips,
)
from astor_rl.types import Example, Invalid, Message, Score


@dataclass(frozen=True, slots=True)
class _Answer:
    """Tests read of a completion, or the `fault` that keeps them from being run."""

    tests: str
    format: float
    compiles: bool
    fault: str = ""
    checks: bool = False


class UnitTestGenerationTask:
    """Write tests for a module; see the module's docstring for how they are judged.

    Verdict `unforgeable`: tests have a process of their own, a fresh one for each version, and see
    stand-ins of what the version defines; a version is killed if it was seen to answer otherwise
    than the correct code and the tests fail on it. With `allow_shared_process` it is
    `detected-only`: in the rows that need it (found with the reference tests; their metric
    `unforgeable` is 0), a test could inspect a version instead of calling it. What can be seen in
    the source is refused (`tests_policy`), hidden ways are not.

    Options:
        line_weight, branch_weight, mutant_weight: weights of the outcome's parts, >= 0.
        max_tests: how many tests the prompt allows; more cost format reward, nothing else.
        answer_asserts: the reference answer's first so many assertions are its answer, so that
            warm-up targets are short; 0 for all. The ceiling is that answer's.
        timeout_s: deadline of the tests on one version, seconds.
        allow_shared_process: for rows whose reference tests can't be run from a process of their
            own: run them in the code's. Otherwise rollouts of such rows are invalid.

    Rows: `module` (`focal.py`), `entry_point` (may be null), `code`, `reference_tests` (source, or
    a mapping with one file name and its source), `mutants` (list of {`code`, ...}, may be empty).
    Optional: `support_files` (name -> source), `buggy` (a version with a natural bug).

    Answer form: one fenced block labelled `python`, prose around it allowed, holding test
    functions, `unittest` cases or bare asserts. The names of the module are imported for the tests
    unless they import it themselves. Format reward: a third each for exactly one closed `python`
    fence; for source that parses; and, if it parses, for 1 to `max_tests` tests with an assertion.
    For the outcome the last closed Python block counts that parses, be it unlabelled; without any
    fence the whole completion counts.

    Metrics: `line_coverage`, `branch_coverage` and `mutation_score` (only where there are branches
    and mutants; 0 before the gate), `compiles`, `passes` (on the correct code, both times, whatever
    the tests are worth), `passes_on_correct` (and past the gate), `unforgeable` (1 if the tests had
    a process of their own), and `detects_bug` for rows with `buggy`, whose detection isn't part
    of the outcome.
    """

    kind = "unit_test_generation"
    verdict: str

    def __init__(
        self,
        sandbox: SandboxPool | None = None,
        *,
        line_weight: float = 0.25,
        branch_weight: float = 0.25,
        mutant_weight: float = 0.5,
        max_tests: int = 8,
        answer_asserts: int = 0,
        timeout_s: float = 2.0,
        allow_shared_process: bool = False,
    ) -> None:
        weights = {"line": line_weight, "branch": branch_weight, "mutant": mutant_weight}
        for part, weight in weights.items():
            self._check(f"{part}_weight", weight, 0, 1e6)
        if not any(weights.values()):
            raise ConfigError(
                f"options line_weight, branch_weight and mutant_weight of task {self.kind!r} "
                "are all 0; at least one must be above 0"
            )
        self._check("max_tests", max_tests, 1, 1000)
        self._check("answer_asserts", answer_asserts, 0, 1000)
        self._check("timeout_s", timeout_s, 0.01, 600)
        self.verdict = "detected-only" if allow_shared_process else "unforgeable"
        self._judge = (
            None
            if sandbox is None
            else MutationJudge(
                self.kind, sandbox, weights, timeout_s, allow_shared=allow_shared_process
            )
        )
        self._max_tests = max_tests
        self._answer_asserts = answer_asserts
        self._ceilings: dict[str, float] = {}
        self._visible: dict[str, frozenset[str]] = {}

    def _check(self, name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise ConfigError(
                f"option {name!r} of task {self.kind!r} is {value!r}; "
                f"it must be from {low} to {high:g}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sandbox: SandboxPool | None) -> Self:
        """Build from `[tasks.options]`; see the class for the options.

        Raises:
            ConfigError: an unknown option or a bad value.
        """
        return cls(
            sandbox, **validation.read_options(cls.kind, config, validation.defaults_of(cls))
        )

    def example(self, row: Mapping[str, Any], *, origin: str, unit: str | None = None) -> Example:
        """Check a row; its unit is the row's `id` (or content) unless given.

        Raises:
            DataError: a field is missing, of the wrong type, or isn't Python.
        """
        key, fields = checked_row(self.kind, row, origin)
        return Example(key, fields, origin, unit or str(row.get("id", key)))

    def prompt(self, example: Example) -> list[Message]:
        """One user turn: the code (with its docstrings), files beside it, and what to write."""
        row = example.fields
        parts = [f"Module `{row['module']}`:\n\n{fenced(row['code'])}"]
        for name, source in row["support_files"].items():
            parts.append(f"File `{name}` beside it:\n\n{fenced(source)}")
        what = f"`{row['entry_point']}`" if row["entry_point"] else "this module"
        parts.append(
            f"Write unit tests for {what}: at most {self._max_tests} functions "
            "`def test_...():` with assert statements, in one ```python block. "
            f"Everything in `{row['module']}` is already imported."
        )
        return [{"role": "user", "content": "\n\n".join(parts)}]

    def answer(self, example: Example) -> str:
        """The first `max_tests` reference tests, or `answer_asserts` assertions, in a fence."""
        row = example.fields
        tests = without_import_of(row["tests"], row["module"], self._names(example))
        most = self._answer_asserts or None
        return fenced(shortened(without_skips(tests), tests=self._max_tests, assertions=most))

    def broken(self, example: Example) -> Mapping[str, str]:
        """Wrong expectations, no expectations, no calls, inspection, and no Python."""
        module = example.fields["module"]
        variants = {
            "asserts nothing": "def test_nothing():\n    assert True",
            "doesn't call": "def test_sum():\n    assert 1 + 1 == 2",
            "doesn't assert": "def test_nothing():\n    pass",
            "inspects": (
                f"import inspect\nimport {module}\n\n\ndef test_source():\n"
                f"    assert 'return' in inspect.getsource({module})"
            ),
            "opens": f"def test_source():\n    assert open({module + '.py'!r}).read()",
            "syntax error": "def test_nothing(:\n    assert",
        }
        if wrong := contradicted(example.fields["tests"]):
            variants["wrong values"] = wrong
        return {"empty": "", **{name: fenced(tests) for name, tests in variants.items()}}

    def ceiling(self, example: Example) -> float:
        """What `answer` reaches when run, or 1 if it doesn't get past the gate.

        Measured once an example: here, unless `measure_ceilings` has.

        Raises:
            SandboxError: the task has no sandbox, or it could not run the reference.
        """
        if example.key not in self._ceilings:
            # A thread of its own, as an event loop may be running in this one.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, self.measure_ceilings([example])).result()
        return self._ceilings[example.key]

    async def measure_ceilings(self, examples: Sequence[Example]) -> None:
        """Measure the ceilings of many examples at once, for `ceiling` to find.

        Raises:
            SandboxError: the task has no sandbox, or it could not run a reference.
        """
        waiting = [example for example in examples if example.key not in self._ceilings]
        golds = [(example, validation.rollout_of(self.answer(example))) for example in waiting]
        for example, score in zip(waiting, await self.score(golds), strict=True):
            self._note_ceiling(example, score)

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        """Judge; equal tests of one example run once.

        Raises:
            SandboxError: the task has no sandbox.
        """
        answers = [
            guarded(self.kind, self._read, example, rollout.text) for example, rollout in pairs
        ]
        distinct = {
            (example.key, answer): example
            for (example, _), answer in zip(pairs, answers, strict=True)
            if isinstance(answer, _Answer)
        }
        judge = self._required()
        await judge.prepare(distinct.values(), self._reference)
        judged = await asyncio.gather(
            *(
                guarded_async(self.kind, _judged(judge, example, answer))
                for (_, answer), example in distinct.items()
            )
        )
        scores = dict(zip(distinct, judged, strict=True))
        return [
            answer if isinstance(answer, Invalid) else scores[example.key, answer]
            for (example, _), answer in zip(pairs, answers, strict=True)
        ]

    async def respond(self, example: Example, messages: Sequence[Message]) -> list[Message] | None:
        """None: one turn."""
        return None

    async def validate(self, examples: Sequence[Example]) -> ValidationReport:
        """See `tasks.validation.validate`; a reference that fails the gate is below its ceiling."""
        await self.measure_ceilings(examples)
        return await validation.validate(self, examples)

    def _required(self) -> MutationJudge:
        if self._judge is None:
            raise SandboxError(f"task {self.kind!r} can't score without a sandbox")
        return self._judge

    def _reference(self, example: Example) -> str:
        """The reference answer as it is run."""
        return self._read(example, self.answer(example)).tests

    def _note_ceiling(self, example: Example, score: Score | Invalid) -> None:
        if isinstance(score, Invalid):  # shown by `validate`; nothing is known, so nothing is low
            self._ceilings[example.key] = 1.0
        else:
            self._ceilings[example.key] = score.outcome or 1.0

    def _names(self, example: Example) -> frozenset[str]:
        """What the tests get to see of the module: what every version of it defines."""
        if example.key not in self._visible:
            row = example.fields
            trees = map(parse_python, (row["code"], row["buggy"] or row["code"], *row["mutants"]))
            names = frozenset.intersection(*(defined_names(tree) for tree in trees if tree))
            # A helper that happens to be called `test_...` isn't one of the written tests.
            self._visible[example.key] = frozenset(
                name
                for name in names
                if name.isidentifier()  # `from x import *` defines a "*"
                and (not name.startswith("test") or name == row["entry_point"])
            )
        return self._visible[example.key]

    def _read(self, example: Example, text: str) -> _Answer:
        """Tests and format reward of a completion, by the class's docstring."""
        blocks = [block.code for block in fences(text) if block.closed and block.is_python]
        if not blocks and "```" not in text:
            blocks = [text]
        one_fence = float(is_one_python_fence(text))
        if not any(block.strip() for block in blocks):
            return _Answer("", one_fence / 3, compiles=False, fault="no tests")
        parsed = ((block, parse_python(block)) for block in reversed(blocks))
        source, tree = next(((b, t) for b, t in parsed if t and t.body), ("", None))
        if tree is None:
            return _Answer("", one_fence / 3, compiles=False, fault="doesn't parse")
        count = count_tests(tree)
        proper = has_assertion(tree) and 1 <= count <= self._max_tests
        row = example.fields
        support = {name.removesuffix(".py") for name in row["support_files"]}
        tests = with_imports(source, tree, row["module"], self._names(example))
        # Of what is run: a change of a name that was imported for the tests is seen, too.
        refused = refusal(parse_python(tests) or tree, row["module"], support)
        fault = refused or ("" if count else "no tests")
        if copied := copied_definition(tree, parse_quietly(row["code"])):
            fault = fault or f"copies the code under test: {copied}"
        names = self._names(example) | {row["module"]} | imported_names(tree, row["module"])
        form = (one_fence + 1 + proper) / 3
        return _Answer(tests, form, compiles=True, fault=fault, checks=checks_calls(tree, names))


async def _judged(judge: MutationJudge, example: Example, answer: _Answer) -> Score | Invalid:
    verdict = await judge.judge(example, answer.tests, answer.fault, checks=answer.checks)
    if isinstance(verdict, Invalid):
        return verdict
    metrics = {**verdict.metrics, "compiles": float(answer.compiles)}
    return Score(verdict.outcome, answer.format, metrics, verdict.reason)
