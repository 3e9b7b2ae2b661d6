"""How written tests are run: apart from the code, or with it where the row needs that."""

from __future__ import annotations

import ast
import asyncio
from dataclasses import replace

import pytest

from astor_rl.sandbox.api import Coverage, Outcome
from astor_rl.tasks.unit_test_generation import UnitTestGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid

CODE = """LIMIT = 10


def clip(n):
    if n > LIMIT:
        return LIMIT
    return n


def double(n):
    return n * 2
"""
ROW = {
    "id": "clip",
    "module": "focal.py",
    "entry_point": "clip",
    "code": CODE,
    "reference_tests": (
        "from focal import *\n\n\ndef test_reference():\n"
        "    assert clip(3) == 3\n    assert clip(30) == 10\n    assert double(4) == 8\n"
    ),
    "mutants": [
        {"op": "return_none", "line": 7, "code": CODE.replace("return n\n", "return None\n")},
        {"op": "const_int", "line": 1, "code": CODE.replace("10", "11")},
    ],
    "buggy": CODE.replace("n > LIMIT", "n < LIMIT"),
}
SMALL = "assert clip(3) == 3"
STACK = "\n\nclass Stack(list):\n    pass\n\n\ndef stack():\n    return Stack([1])\n"
SHARED = {
    "code": CODE + STACK,
    "reference_tests": ROW["reference_tests"] + "    assert stack() == [1]\n",
    "mutants": [{"code": mutant["code"] + STACK} for mutant in ROW["mutants"]],
    "buggy": None,
}
"""A list of another process equals no list of here."""


def make(pool, **options):
    return UnitTestGenerationTask(pool, timeout_s=20.0, **options)


def score(task, *texts, **changes):
    example = task.example({**ROW, **changes}, origin="rows:1")
    return asyncio.run(task.score([(example, rollout_of(text)) for text in texts]))


def run(task, tests, **changes):
    (found,) = score(task, f"```python\n{tests}\n```", **changes)
    return found


def test_rows_that_need_one_process_are_invalid_unless_that_is_allowed(pool):
    found = run(make(pool), SMALL, **SHARED)
    assert isinstance(found, Invalid)
    assert found.reason.startswith("rows:1: the reference tests fail when they have a process")
    assert "allow_shared_process = true" in found.reason
    found = run(make(pool, allow_shared_process=True), SMALL, **SHARED)
    assert (found.outcome > 0.5, found.metrics["unforgeable"]) == (True, 0)
    found = run(make(pool, allow_shared_process=True), SMALL)
    assert (found.outcome > 0.5, found.metrics["unforgeable"]) == (True, 1)


def test_tests_that_are_wrong_in_any_process_need_none(pool):
    found = run(make(pool), SMALL, reference_tests="assert clip(3) == 4")
    assert (found.outcome > 0.5, found.metrics["unforgeable"]) == (True, 1)


def test_no_version_is_killed_that_answers_like_the_correct_one(pool):
    class Lying(CountingPool):
        """Tests that say they fail on all mutants, whatever they saw."""

        async def submit(self, job):
            outcome = await super().submit(job)
            if job.reference is None:
                return outcome
            correct = job.targets[job.reference]
            lies = (
                target
                if source == correct
                else replace(target, failed=("test",), message="test: AssertionError")
                for target, source in zip(outcome.targets, job.targets, strict=True)
            )
            return replace(outcome, targets=tuple(lies))

    tests = f"from focal import clip\n{SMALL}"  # and not LIMIT, in which a mutant differs
    honest = run(make(pool), tests)
    lying = run(make(Lying(pool)), tests)
    assert honest.metrics["mutation_score"] == lying.metrics["mutation_score"] == 1 / 2


def test_tests_that_leave_early_are_worth_nothing(pool):
    found = run(make(pool), "def test():\n    assert clip(3) == 3\n    raise SystemExit")
    assert found.outcome == 0


class CountingPool:
    """Counts what it passes on to a real pool, or answers in its stead."""

    def __init__(self, pool, answer=None):
        self.jobs = []
        self._pool, self._answer = pool, answer

    async def submit(self, job):
        self.jobs.append(job)
        return self._answer if self._answer is not None else await self._pool.submit(job)


def test_equal_tests_run_once_and_wrong_ones_never_meet_the_mutants(pool):
    counting = CountingPool(pool)
    task = UnitTestGenerationTask(counting)
    wrong = "assert clip(3) == 4"
    found = score(task, SMALL, f"```python\n{SMALL}\n```", SMALL, wrong, "no code (", "import os")
    assert found[0] is found[2]
    assert found[0].outcome > 0 == found[3].outcome
    # The import's own lines and the reference tests, once; the bare and the fenced form differ by
    # a newline only. Wrong ones are stopped at the reference, by the sandbox.
    assert sorted(len(job.targets) for job in counting.jobs) == [1, 1, 5, 5, 5]
    for job in counting.jobs:
        assert (
            len(job.targets) == 1
            or job.targets[job.reference] == ast.unparse(ast.parse(CODE)) + "\n"
        )


def test_the_order_of_versions_depends_on_the_tests_and_is_reproducible(pool):
    def order(tests):
        counting = CountingPool(pool)
        run(UnitTestGenerationTask(counting), tests)
        return counting.jobs[-1].targets

    orders = [order(f"assert clip({n}) == {n}") for n in range(6)]
    assert len(set(orders)) > 1
    assert len({tuple(sorted(targets)) for targets in orders}) == 1
    assert order("assert clip(0) == 0") == orders[0]


def test_a_broken_sandbox_is_invalid_and_never_a_zero(pool):
    task = UnitTestGenerationTask(CountingPool(pool, Outcome("infra_error", message="no fork")))
    found = run(task, SMALL)
    assert isinstance(found, Invalid)
    assert "no fork" in found.reason


def test_versions_cannot_be_told_by_their_formatting(pool):
    odd = CODE.replace("    if n > LIMIT:\n        return", "    # why\n    if(n>LIMIT): return")
    counting = CountingPool(pool)
    task = UnitTestGenerationTask(counting)
    unparsed = ast.unparse(ast.parse(odd))
    broken = odd + "\n)"
    found = run(
        task, SMALL, code=odd, mutants=[{"code": unparsed}, {"code": broken}, *ROW["mutants"]]
    )
    assert found.metrics["mutation_score"] == 2 / 4
    seen = {target for job in counting.jobs for target in job.targets}
    assert len(seen) == 5  # one correct code, however written; what doesn't parse as it is
    assert broken in seen
    assert odd not in seen


@pytest.mark.parametrize(
    "counts",
    [(5, 0, 0, 0), (7 * 10**400, 7, 2, 2), (8, 7, 2, 2), (7, 8, 2, 2), (7, 7, 2, 4), (-1, 7, 0, 2)],
)
def test_forged_coverage_is_worth_nothing(pool, counts):
    class Forging(CountingPool):
        async def submit(self, job):
            outcome = await super().submit(job)
            if job.reference is None:  # what importing reaches, measured without the tests
                return outcome
            forged = (
                replace(target, coverage=target.coverage and Coverage(*counts))
                for target in outcome.targets
            )
            return replace(outcome, targets=tuple(forged))

    found = run(UnitTestGenerationTask(Forging(pool), timeout_s=20.0), SMALL)
    assert (found.outcome, found.reason) == (0, "malformed: coverage that isn't of this code")


STATEFUL = """
import math

math.runs = getattr(math, "runs", 0) + 1


def test_x():
    assert clip(3) == 3
    assert math.runs {condition}
"""


@pytest.mark.parametrize("condition", ["== 1", "<= 2", "% 2", "> 1"])
def test_tests_that_count_their_runs_are_found_out(pool, condition):
    tests = STATEFUL.format(condition=condition)
    found = run(make(pool), tests)
    assert (found.outcome, found.reason) == (0, "changes math.runs")
    tests = tests.replace("math.runs = ", "box = math.__name__ and [math][0]\nbox.runs = ")
    found = run(make(pool), tests)
    # Each process runs them once.
    assert (found.outcome > 0) is (condition != "> 1")
    found = run(make(pool, allow_shared_process=True), tests, **SHARED)
    assert found.outcome == 0
    assert "passes and fails on the same code" in found.reason


REMEMBERING = """
import contextlib
from focal import clip, double


def attempt(n):
    try:
        return clip(n), double(n)
    except Exception as error:
        return type(error).__name__


def test_a(tmp_path):
    got = repr([attempt(n) for n in range(-50, 50)])
    kept = tmp_path.parent / "answers"
    if kept.exists():
        assert kept.read_text() == got
    else:
        kept.write_text(got)
        folder = tmp_path
        for _ in range(15):
            folder = folder / ("d" * 250)
            folder.mkdir()
        with contextlib.chdir(folder):
            short = type(folder)("d" * 250)
            short.mkdir()
            (short / short).mkdir()
        assert got
"""


def test_tests_that_keep_the_answers_of_the_correct_code_are_worth_nothing(pool):
    found = run(make(pool), REMEMBERING)
    assert (found.outcome, found.reason) == (0, "no assertion fails on any of 2 mutants")
