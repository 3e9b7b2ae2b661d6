"""Files judged by test files: from another process, or from the same one where that is needed."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox.api import Outcome, TargetResult
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.parsing import fenced
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid

TEST = """
import unittest
from acronym import abbreviate
from words import WORDS

class AcronymTest(unittest.TestCase):
    def test_one(self):
        self.assertEqual(abbreviate(WORDS), "PNG")

    def test_two(self):
        self.assertEqual(abbreviate("a b"), "AB")
"""

ROW = {
    "id": "acronym",
    "prompt": "Convert a phrase to its acronym.",
    "entry_point": None,
    "files": {"acronym.py": "def abbreviate(words):\n    pass\n"},
    "reference": {
        "acronym.py": (
            "def abbreviate(words):\n    return ''.join(w[0] for w in words.split()).upper()\n"
        )
    },
    "support_files": {"words.py": "WORDS = 'Portable Network Graphics'\n"},
    "tests": [{"path": "acronym_test.py", "content": TEST}],
}


def make(task, **change):
    return task.example({**ROW, **change}, origin="rows:1")


def score(task, example, *codes):
    return asyncio.run(task.score([(example, rollout_of(fenced(code))) for code in codes]))


SUBCLASS = """

from acronym import Words

class Mine(Words):
    def upper(self): return "MINE"

def test_subclass(): assert Mine().upper() == "MINE"
"""
"""A class of another process can't be derived from."""
NEEDS_ONE = {
    "reference": {"acronym.py": ROW["reference"]["acronym.py"] + "class Words(list): pass\n"},
    "tests": [{"path": "acronym_test.py", "content": TEST + SUBCLASS}],
}


def test_a_suite_judges_a_file(pool):
    task = CodeGenerationTask(pool, tier="exercise", reward="fraction")
    example = make(task)
    (gold,) = ROW["reference"].values()
    results = score(
        task,
        example,
        gold,
        "def abbreviate(words):\n    return 'AB'",
        "def abbreviate(words):\n    return None",
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "raise ImportError",
        "def abbreviate(words",
    )
    assert [r.outcome for r in results] == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert [r.format for r in results] == [1.0] * 6 + [0.0]
    strict = CodeGenerationTask(pool, tier="exercise")
    half = "def abbreviate(words):\n    return 'AB'"
    assert [r.outcome for r in score(strict, make(strict), gold, half)] == [1.0, 0.0]


@pytest.mark.parametrize(("assertions", "outcome"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_tests_that_pass_have_evaluated_their_assertions(assertions, outcome):
    class Forged:
        async def submit(self, job):
            names = ("AcronymTest::test_one", "AcronymTest::test_two", "AcronymTest::test_made")
            return Outcome("ok", targets=(TargetResult("ok", names, (), assertions),))

    task = CodeGenerationTask(Forged(), tier="exercise")
    more = TEST + "\n    def test_made(self):\n        abbreviate('a')\n"  # asserts nothing
    example = make(task, tests=[{"path": "acronym_test.py", "content": more}])
    (found,) = score(task, example, "x = 1")
    assert found.outcome == outcome
    assert ("assertions evaluated" in found.reason) is not bool(outcome)


def test_a_failing_sandbox_is_invalid():
    class Failing:
        async def submit(self, job):
            return Outcome("infra_error", message="no descriptors left")

    task = CodeGenerationTask(Failing(), tier="exercise")
    assert score(task, make(task), "x = 1") == [Invalid("no descriptors left")]


class Noting:
    """A real pool that notes what it was given."""

    def __init__(self, pool):
        self.pool, self.jobs = pool, []

    async def submit(self, job):
        self.jobs.append(job)
        return await self.pool.submit(job)


def test_the_reference_is_run_once_and_decides_what_has_a_say(pool):
    noting = Noting(pool)
    task = CodeGenerationTask(noting, tier="exercise")
    example = make(task)
    (gold,) = ROW["reference"].values()
    yes = """
class Yes:
    def __eq__(self, other): return True
    __hash__ = None
def abbreviate(words): return Yes()
"""
    cheats = [yes, yes.replace("class Yes:", "class Yes(str):"), "import unittest\n" + yes]
    assert [r.outcome for r in score(task, example, gold, *cheats)] == [1, 0, 0, 0]
    assert [r.metrics["unforgeable"] for r in score(task, example, gold, yes)] == [1, 1]
    assert [job.judging for job in noting.jobs] == [None, *[()] * 6]
    assert not any(job.shared_process for job in noting.jobs)


def test_what_a_solution_may_import_is_its_own_business(pool):
    task = CodeGenerationTask(pool, tier="exercise")
    (gold,) = ROW["reference"].values()
    (found,) = score(task, make(task), "import os, sys, inspect, unittest\n" + gold)
    assert found.outcome == 1


def test_tests_that_need_the_solutions_process_are_invalid_unless_it_is_allowed(pool):
    (gold,) = NEEDS_ONE["reference"].values()
    task = CodeGenerationTask(pool, tier="exercise")
    (found,) = score(task, make(task, **NEEDS_ONE), gold)
    assert isinstance(found, Invalid)
    assert found.reason.startswith("rows:1: the reference fails its tests when they run in a")
    assert "class 'Mine' derives from a class in another process" in found.reason
    assert "allow_shared_process = true" in found.reason
    report = asyncio.run(task.validate([make(task, **NEEDS_ONE), make(task)]))
    assert [origin for origin, _ in report.invalid] == ["rows:1"]
    task = CodeGenerationTask(pool, tier="exercise", allow_shared_process=True)
    one, other = score(task, make(task, **NEEDS_ONE), gold, "class Words: pass\n")
    assert (one.outcome, one.metrics["unforgeable"]) == (1, 0)
    assert (other.outcome, other.metrics["unforgeable"]) == (0, 0)
    (usual,) = score(task, make(task), gold)
    assert (usual.outcome, usual.metrics["unforgeable"]) == (1, 1)


def test_in_one_process_solutions_that_reach_for_the_machinery_are_refused(pool):
    task = CodeGenerationTask(pool, tier="exercise", allow_shared_process=True)
    (gold,) = NEEDS_ONE["reference"].values()
    (found,) = score(task, make(task, **NEEDS_ONE), gold + "\nimport unittest")
    assert (found.outcome, found.format) == (0, 1)
    assert found.reason == "refused: imports unittest"


def failures(task, example, code):
    return asyncio.run(task.failures(example, fenced(code)))


MANY = """
import pytest
from acronym import abbreviate

@pytest.mark.parametrize("words", ["a b", "c d"])
def test_each(words):
    assert abbreviate(words) == words.replace(" ", "").upper()

class TestMore:
    def test_empty(self):
        assert abbreviate("") == ""

    def test_raises(self):
        with pytest.raises(AttributeError):
            abbreviate(3)

    def test_long(self):
        assert abbreviate("portable network graphics") == "PNG"
"""


def test_every_failed_test_is_told_with_its_own_message_and_source(pool):
    noting = Noting(pool)
    task = CodeGenerationTask(noting, tier="exercise")
    example = make(task, tests=[{"path": "acronym_test.py", "content": MANY}])
    wrong = "def abbreviate(words):\n    return words[0] + str(words.split()[2])"
    assert failures(task, example, wrong) == (
        "5 of 5 fail.\n\n"
        "test_each\nIndexError: list index out of range (line 7: "
        'assert abbreviate(words) == words.replace(" ", "").upper())\n\n'
        '@pytest.mark.parametrize("words", ["a b", "c d"])\ndef test_each(words):\n'
        '    assert abbreviate(words) == words.replace(" ", "").upper()\n\n'
        "TestMore::test_empty\nIndexError: string index out of range (line 11: "
        'assert abbreviate("") == "")\n\n'
        'def test_empty(self):\n    assert abbreviate("") == ""\n\n'
        "TestMore::test_raises\nTypeError: 'int' object is not subscriptable (line 15: "
        "abbreviate(3))\n\n"
        "def test_raises(self):\n    with pytest.raises(AttributeError):\n        abbreviate(3)\n\n"
        "TestMore::test_long\nAssertionError (line 18: "
        'assert abbreviate("portable network graphics") == "PNG")\n\n'
        'def test_long(self):\n    assert abbreviate("portable network graphics") == "PNG"'
    )
    # The reference, all tests, and each but the first by itself: as guarded as when judging.
    assert len(noting.jobs) == 5
    assert not any(job.shared_process for job in noting.jobs)
    assert [job.judging for job in noting.jobs[1:]] == [()] * 4
    assert all(job.support == ROW["support_files"] for job in noting.jobs)
    (gold,) = ROW["reference"].values()
    assert failures(task, example, gold) == "the tests failed, and pass when they are run again"


def test_a_test_that_fails_only_after_others_is_said_to(pool):
    task = CodeGenerationTask(pool, tier="exercise")
    zero = "\n    def test_zero(self):\n        self.assertEqual(abbreviate('a b'), 'AB')\n"
    example = make(task, tests=[{"path": "acronym_test.py", "content": TEST + zero}])
    counts = (
        "calls = []\ndef abbreviate(words):\n    calls.append(words)\n"
        "    return 'AB' if len(calls) < 3 else ''"
    )
    said = failures(task, example, counts) or ""
    assert said.startswith("2 of 3 fail.\n\nAcronymTest::test_one\nAssertionError: 'AB' != 'PNG'")
    assert "test_zero\nfailed, but passes when it is run without the tests before it" in said


def test_what_keeps_tests_from_running_is_all_that_is_told(pool):
    task = CodeGenerationTask(pool, tier="exercise", timeout_s=1.0)
    example = make(task)
    assert (failures(task, example, "while True: pass") or "").startswith("timeout: ")
    assert "ZeroDivisionError" in (failures(task, example, "1 / 0") or "")
    assert asyncio.run(task.failures(example, "```\n```")) == "no code"
    with pytest.raises(SandboxError, match="exercises only, and with a sandbox"):
        failures(CodeGenerationTask(tier="exercise"), example, "x = 1")

    class Failing:
        async def submit(self, job):
            return Outcome("infra_error", message="no descriptors left")

    assert failures(CodeGenerationTask(Failing(), tier="exercise"), example, "x = 1") == Invalid(
        "no descriptors left"
    )


def read(path):
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "step"),
    [("train.exercism_clean", 12), ("heldout.aider_polyglot_python", 9)],
)
def test_real_exercises(pool, shared_data, name, step):
    task = CodeGenerationTask(pool, tier="exercise", timeout_s=20.0)
    rows = read(shared_data / f"code_generation.{name}.jsonl.gz")
    examples = [task.example(row, origin=row["id"]) for row in rows]
    report = asyncio.run(task.validate(examples[::step]))
    assert report.ok, report


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "invalid"),
    [
        ("train.exercism_clean", []),
        ("extra.exercism_aider_statement_overlap", []),
        # Its tests put a mock in the place of `super` in the solution's module.
        ("heldout.aider_polyglot_python", ["aider-polyglot/python/paasio"]),
    ],
)
def test_all_references_pass_from_another_process(pool, shared_data, name, invalid):
    task = CodeGenerationTask(pool, tier="exercise", timeout_s=30.0)
    rows = read(shared_data / f"code_generation.{name}.jsonl.gz")
    examples = [task.example(row, origin=row["id"]) for row in rows]
    golds = [(example, rollout_of(task.answer(example))) for example in examples]
    scores = asyncio.run(task.score(golds))
    found = [(example.origin, score) for (example, _), score in zip(golds, scores, strict=True)]
    assert [origin for origin, score in found if isinstance(score, Invalid)] == invalid
    passed = [score for _, score in found if not isinstance(score, Invalid)]
    assert {(s.outcome, s.metrics["unforgeable"]) for s in passed} == {(1, 1)}
