"""`SuiteJob`, in two processes and in one: what counts as a test, what cannot make it pass."""

from __future__ import annotations

import gzip
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astor_rl.sandbox import runs
from astor_rl.sandbox.api import Job, Limits, Outcome, SuiteJob

Run = Callable[[Job], Outcome]
_ADD = "def add(a, b):\n    return a + b\n"
_SUB = "def add(a, b):\n    return a - b\n"
_LIMITS = Limits(wall_s=30, cpu_s=30)


@pytest.fixture(params=[False, True], ids=["two processes", "one process"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


_SUITE = """
import unittest
import pytest
from calc import add

class AddTest(unittest.TestCase):
    @pytest.mark.task(taskno=1)
    def test_small(self): self.assertEqual(add(1, 2), 3)
    def test_large(self):
        with self.subTest("one"): self.assertEqual(add(100, 200), 300)

def test_types():
    with pytest.raises(TypeError): add(None, 1)
"""
_NAMES = {"AddTest::test_small", "AddTest::test_large", "test_types"}


def _suite(run: Run, solution: str, shared: bool, tests: str = _SUITE) -> Outcome:
    files = {"calc.py": textwrap.dedent(solution)}
    suite = {"calc_test.py": textwrap.dedent(tests)}
    return run(SuiteJob(files, suite, limits=_LIMITS, shared_process=shared))


def test_a_right_and_a_wrong_solution(run: Run, shared: bool) -> None:
    right = _suite(run, _ADD, shared)
    assert right.status == "ok"
    assert set(right.targets[0].passed) == _NAMES
    assert right.targets[0].failed == ()
    wrong = _suite(run, _SUB, shared)
    assert wrong.status == "ok"
    assert set(wrong.targets[0].failed) == _NAMES - {"test_types"}
    # unittest sorts its methods.
    assert wrong.targets[0].message.startswith("AddTest::test_large: AssertionError: -100 != 300")


@pytest.mark.parametrize(
    "solution",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "def add(",
        "",
        "raise KeyboardInterrupt",
        "import os\ndef add(a, b):\n    os._exit(0)",
        "import unittest\nunittest.TestCase = object\n" + _SUB,
        "import unittest\nunittest.TestLoader.getTestCaseNames = lambda *a: []\n" + _SUB,
        "import unittest\nunittest.TestSuite.run = lambda self, r: setattr(r, 'testsRun', 0)\n"
        + _SUB,
        "import atexit, os\natexit.register(os._exit, 0)\n" + _SUB,
        "import pytest\ndef add(a, b): pytest.skip('no')",
        "import unittest\ndef add(a, b): raise unittest.SkipTest('no')",
        "print('3 passed')\ndef add(a, b): return 4",
        "class Liar(int):\n    def __eq__(self, o): return False\ndef add(a, b): return Liar()",
        "import sys\nsys.modules['calc_test'] = sys\n" + _SUB,
        "import os\nos.write(201, b'x' * 100)\n" + _ADD,
        "def add(a, b):\n    while True: pass",
    ],
)
def test_tricks_do_not_pass_every_test(run: Run, solution: str, shared: bool) -> None:
    files, suite = {"calc.py": solution}, {"calc_test.py": _SUITE}
    job = SuiteJob(files, suite, limits=Limits(wall_s=20, cpu_s=1), shared_process=shared)
    outcome = run(job)
    (result,) = outcome.targets
    assert result.failed, outcome
    missing = _NAMES - {name.partition("[")[0] for name in (*result.passed, *result.failed)}
    assert not missing


def test_what_ran_before_an_early_exit_is_kept_and_the_rest_failed(run: Run, shared: bool) -> None:
    tests = "from calc import add\n" + "\n".join(
        f"def test_{i}(): assert add({i}, 0) == {i}" for i in range(4)
    )
    solution = "import os\ndef add(a, b):\n    return a if a < 2 else os._exit(0)"
    outcome = _suite(run, solution, shared, tests)
    assert outcome.status == "crash"
    assert outcome.targets[0].passed == ("test_0", "test_1")
    assert {"test_2", "test_3"} <= set(outcome.targets[0].failed)


def test_several_files_packages_and_data(run: Run, shared: bool) -> None:
    files = {
        "shop/__init__.py": "from shop.prices import total\n",
        "shop/prices.py": "from .rates import RATE\ndef total(x):\n    return x * RATE\n",
        "shop/rates.py": "RATE = int(open('rate.txt').read())\n",
        "rate.txt": "3",
    }
    tests = {
        "a_test.py": "from shop import total\ndef test_a(): assert total(2) == 6",
        "b_test.py": "import shop.rates\ndef test_a(): assert shop.rates.RATE == 4",
    }
    (result,) = run(SuiteJob(files, tests, limits=_LIMITS, shared_process=shared)).targets
    assert result.passed == ("a_test.py::test_a",)
    assert result.failed == ("b_test.py::test_a",)


@pytest.mark.parametrize(
    "change",
    [
        "unittest.TestCase.assertEqual = lambda *a, **k: None",
        "unittest.TestCase.__getattribute__ = object.__getattribute__",
        "unittest.TestResult.addFailure = lambda *a: None",
        "pytest.raises = contextlib.nullcontext",
        "find('failure')['failure'] = lambda run: None",
        "f = find('failure')['failure']; f.__code__ = (lambda run: None).__code__",
    ],
)
def test_a_framework_changed_in_one_process_fails_every_test(run: Run, change: str) -> None:
    prelude = """
    import contextlib, pytest, sys, unittest
    def find(name):
        frame = sys._getframe()
        while name not in frame.f_globals: frame = frame.f_back
        return frame.f_globals
    """
    solution = textwrap.dedent(prelude) + change + "\n"
    outcome = _suite(run, solution + _SUB, True)
    (result,) = outcome.targets
    assert (outcome.status, result.passed) == ("error", ())
    assert set(result.failed) >= _NAMES
    assert "the solution changed" in outcome.message


def test_expected_tests_are_read_without_running() -> None:
    assert set(runs.expected_tests({"t.py": _SUITE})) == _NAMES
    assert runs.expected_tests({"t.py": "def (", "notes.md": "def test_a(): pass"}) == []


@pytest.mark.shared
def test_real_exercises(run: Run, pool: Any, shared_data: Path) -> None:
    """Every Aider Python exercise: the example passes, the stub does not."""
    path = shared_data / "code_generation.heldout.aider_polyglot_python.jsonl.gz"
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file][::4]
    tests = [{entry["path"]: entry["content"] for entry in row["tests"]} for row in rows]
    for key, all_pass in (("reference", True), ("files", False)):
        jobs = [
            SuiteJob({**row["files"], **row[key]}, test, limits=_LIMITS)
            for row, test in zip(rows, tests, strict=True)
        ]
        for row, outcome in zip(rows, pool.map(jobs), strict=True):
            clean = outcome.status == "ok" and not outcome.targets[0].failed
            assert clean is all_pass, (row["slug"], outcome)
