"""Verdicts on functions: tests of every shape, and solutions that would rather not compute."""

from __future__ import annotations

import asyncio

import pytest

from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.parsing import fenced
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid

DOUBLE = {
    "id": "double",
    "prompt": "Double a number.",
    "entry_point": "double",
    "signature": "def double(n):",
    "reference": "def double(n):\n    return 2 * n\n",
    "tests": ["assert double(2) == 4", "assert double(-771) == -1542", "assert not double(0)"],
}
GOOD = "def double(n):\n    return n + n"


def make(task, **change):
    return task.example({**DOUBLE, **change}, origin="rows:1")


def score(task, example, *texts):
    return asyncio.run(task.score([(example, rollout_of(text)) for text in texts]))


def outcomes(task, example, *codes):
    return [result.outcome for result in score(task, example, *map(fenced, codes))]


class Counting:
    """A real pool that notes what it was given."""

    def __init__(self, pool):
        self.pool, self.jobs = pool, []

    async def submit(self, job):
        self.jobs.append(job)
        return await self.pool.submit(job)


IMPOSTOR = (
    "class Any(int):\n    def __eq__(self, other): return True\n"
    "    def __bool__(self): return False\n    __hash__ = int.__hash__\n"
)


@pytest.mark.parametrize(
    "hack",
    [
        "def double(n):\n    import sys; sys.exit(0)",
        "def double(n):\n    import os; os._exit(0)",
        f"{IMPOSTOR}\ndef double(n):\n    return Any(4)",
        "def double(n):\n    return None",
        "def double(n):\n    raise SystemExit",
        "print('passed')\ndef double(n):\n    print('ok', flush=True)",
        "import builtins\nbuiltins.bool = lambda x=0: True\ndef double(n):\n    return 7",
        (
            "import gc, sys\n"
            "def double(n):\n"
            "    for found in gc.get_objects():\n"
            "        if isinstance(found, (list, tuple, dict)) and '-1542' in repr(found)[:9999]:\n"
            "            return -1542\n"
            "    return {2: 4, 0: 0}.get(n)"
        ),
        (
            "import sys\n"
            "def double(n):\n"
            "    frame = sys._getframe()\n"
            "    while frame:\n"
            "        for value in {**frame.f_locals, **frame.f_globals}.values():\n"
            "            if value == -1542: return value\n"
            "        frame = frame.f_back\n"
            "    return {2: 4, 0: 0}.get(n)"
        ),
    ],
)
def test_hacks_fail(pool, hack):
    task = CodeGenerationTask(pool)
    assert outcomes(task, make(task), hack) == [0.0]


def test_a_solution_cannot_end_a_tests_loop_before_it_looks(pool):
    task = CodeGenerationTask(pool)
    loop = "for got, wanted in zip(map(double, (1, 2)), (2, 4)):\n    assert got == wanted"
    example = make(task, tests=[loop])
    stops = "def double(n):\n    raise StopIteration"
    assert outcomes(task, example, GOOD, stops) == [1.0, 0.0]


def test_an_endless_loop_fails(pool):
    task = CodeGenerationTask(pool, timeout_s=0.3)
    (result,) = score(task, make(task), fenced("def double(n):\n    while True: pass"))
    assert result.outcome == 0.0
    assert result.reason.startswith("timeout")


def test_expected_values_never_enter_a_job_that_holds_the_solution(pool):
    counting = Counting(pool)
    task = CodeGenerationTask(counting)
    tests = [
        *DOUBLE["tests"],
        "assert abs(double(1.5) - 3.0625) < 0.1",
        "assert all(double(n) == 2 * n + 0 * 90125 for n in (1, 2))",
    ]
    example = make(task, tests=tests)
    marked = f"# solution\n{GOOD}"
    assert outcomes(task, example, marked) == [1.0]
    holding = [job for job in counting.jobs if "# solution" in job.code]
    assert len(holding) == 1
    assert holding[0].calls == tuple(f"double({n})" for n in (2, -771, 0, 1.5, 1, 2))
    for secret in ("1542", "3.0625", "90125"):
        assert secret not in repr(holding)
    assert any("90125" in repr(job) for job in counting.jobs)


@pytest.mark.parametrize(
    ("test", "right", "wrong"),
    [
        ("assert abs(f(1) - 0.5) < 1e-6", "0.5 + 1e-9", "0.6"),
        ("import math\nassert math.isclose(f(1), 0.5)", "0.5 + 1e-12", "0.6"),
        ("assert f(1) in (3, 4)", "4", "5"),
        ("assert 'b' in f(1)", "['b']", "None"),
        ("assert f(1) == f(2) and f(1) != f(3)", "x < 3", "x"),
        ("assert f(1) == 2 ** 70", "2 ** 70", "2 ** 71"),
        ("assert f(1)['k'][0] == 3", "{'k': [3]}", "{'k': []}"),
        ("assert f(1) != f(1) or True is f(2)", "float('nan')", "0"),
        ("assert list(f(3)) == [0, 1, 2]", "(i for i in range(x))", "iter([0])"),
        ("assert sorted(f(3)) == [0, 1, 2]", "{2, 1, 0}", "[2, 1]"),
        ("for n in range(5):\n    assert f(n) == n * n", "x * x", "x"),
        (
            "import random\nfor _ in range(9):\n    n = random.random()\n    assert f(n) == -n",
            "-x",
            "x",
        ),
        ("import math\nfor n in (math.inf, 1.0):\n    assert f(n) == n", "x", "1.0"),
        ("for n in (1e16, 2 ** 70, 'it\\'s', -0.0):\n    assert f(n) == n", "x", "1"),
        ("data = [3, 1]\nassert f(data) == [1, 3]", "sorted(x)", "x"),
        ("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass", "R(x)", "x"),
    ],
)
def test_tests_of_every_shape(pool, test, right, wrong):
    task = CodeGenerationTask(pool)

    def solution(body):
        return f"def R(x):\n    raise ValueError(x)\n\ndef f(x):\n    return {body}"

    row = {"prompt": "?", "entry_point": "f", "reference": solution(right), "tests": [test]}
    example = task.example(row, origin="rows:1")
    cheat = "class A(float):\n    __eq__ = lambda s, o: True\n    __sub__ = lambda s, o: 0.0\n"
    impostor = f"{cheat}\ndef f(x):\n    return A()"
    none = "def f(x):\n    return None"
    assert outcomes(task, example, solution(right), solution(wrong), impostor, none) == [1, 0, 0, 0]


def test_tests_that_the_reference_fails_are_invalid(pool):
    task = CodeGenerationTask(pool)
    example = make(task, tests=["for n in (1, 2):\n    assert double(n) == 3"])
    (result,) = score(task, example, fenced(GOOD))
    assert isinstance(result, Invalid)
    assert "rows:1" in result.reason
    silent = make(task, tests=["for n in ():\n    assert double(n) == 3"])
    (result,) = score(task, silent, fenced(GOOD))
    assert isinstance(result, Invalid)
    assert "makes no call" in result.reason
    objects = make(
        task, tests=["box = object()\nassert double(box) == 4"], reference="def double(n): return 4"
    )
    (result,) = score(task, objects, fenced(GOOD))
    assert isinstance(result, Invalid)
    assert "literal" in result.reason
