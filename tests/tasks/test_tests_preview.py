from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from astor_rl.sandbox.api import CallJob, CallResult, Job, Opaque, Outcome, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.tasks.tests_preview import plain_tests
from astor_rl.tasks.unit_test_generation import UnitTestGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Score

PLAIN = """from focal import f

def test_a():
    assert f([1, 2], k=3) == [4]
    assert f([]) == []

def test_b():
    assert f([9]) == 1
"""

ROW = {
    "module": "focal.py",
    "entry_point": "f",
    "code": "def f(xs, k=0):\n    return sum(xs) + k",
    "reference_tests": "def test_f():\n    assert f([1, 2]) == 3",
    "mutants": [{"code": "def f(xs, k=0):\n    return sum(xs) - k"}],
}


def _value(value: object) -> CallResult:
    return CallResult("value", value)


def test_plain_tests_are_taken_apart_in_their_order() -> None:
    plain = plain_tests(PLAIN, "focal", "f")
    assert plain is not None
    assert plain.calls == ("f([1, 2], k=3)", "f([])", "f([9])")
    assert plain.names == ("test_a", "test_a", "test_b")


@pytest.mark.parametrize(
    "tests",
    [
        "import os\ndef test_a():\n    assert f(1) == 1",
        "from focal import f as g\ndef test_a():\n    assert f(1) == 1",
        "def f(x):\n    return x\ndef test_a():\n    assert f(1) == 1",
        "def test_a(tmp_path):\n    assert f(1) == 1",
        "@mark\ndef test_a():\n    assert f(1) == 1",
        "def test_a():\n    x = f(1)\n    assert x == 1",
        "def test_a():\n    assert f(1)",
        "def test_a():\n    assert f(1) != 1",
        "def test_a():\n    assert f(f(1)) == 1",
        "def test_a():\n    assert f(1) == f(2)",
        "def test_a():\n    assert f(x) == 1",
        "def test_a():\n    assert sum(f(1)) == 1",
        "def test_a():\n    assert f(1) == 1 or True",
        "def test_a():\n    assert f(1) == g()",
        "def test_a():\n    assert f(1) == 1, f(3)",
        "class TestA:\n    def test_a(self):\n        assert f(1) == 1",
        "f = None\ndef test_a():\n    assert f(1) == 1",
        "def test_a():\n    assert f(1) == 2\ndef test_a():\n    assert f(1) == 1",
        "def test_a(",
        "from focal import f",
        "def test_a() -> f(0):\n    assert f(1) == 1",
        "def test_a():\n    assert f(1) == inf",
        "def test_a():\n    assert f(set([1])) == 1",
        f"def test_a():\n    assert f(1) == 0x{'f' * 4000}",
    ],
)
def test_whatever_is_more_than_plain_is_left_to_the_tests_themselves(tests: str) -> None:
    assert plain_tests(tests, "focal", "f") is None


def test_only_what_is_certain_refutes() -> None:
    plain = plain_tests(PLAIN, "focal", "f")
    assert plain is not None
    right = (_value([4]), _value([]), _value(1))
    assert plain.refuted(right) == ""
    assert plain.refuted((_value([4]), _value([]), _value(True))) == ""  # 1 == True
    assert plain.refuted((_value([4]), _value([]), _value(2))).startswith("test_b: AssertionError")
    raised = CallResult("raised", error="TypeError", message="no")
    assert plain.refuted((raised, *right[1:])) == "test_a: TypeError: no"
    opaque = _value(Opaque("Anything", "<it>"))
    assert plain.refuted((opaque, *right[1:])) == ""
    assert plain.refuted((CallResult("unstable"), *right[1:])) == ""


def test_what_the_process_is_like_refutes_nothing() -> None:
    plain = plain_tests("def test_a():\n    assert f(1) == 'focal.A'\n", "focal", "f")
    assert plain is not None
    assert plain.refuted((_value("solution.A"),)) == ""
    assert plain.refuted((_value("A"),)) != ""
    for name, refuted in (("RecursionError", False), ("MemoryError", False), ("KeyError", True)):
        assert bool(plain.refuted((CallResult("raised", error=name),))) is refuted


TRICKY = """import random

CALLS = []


class Kind:
    pass


def f(x=None, *, n=1):
    CALLS.append(1)
    match n:
        case 1:
            return x
        case 2:
            return len(CALLS)
        case 3:
            x.append(x[0])
            x.sort()
            return tuple(x)
        case 4:
            return list(set(x))
        case 5:
            return random.Random(x).random()
        case 6:
            return {**dict.fromkeys(x, x), None: {*x}}
        case 7:
            return str(Kind)
        case 8:
            return float("nan")
        case 9:
            return 10**4299 + x
        case 10:
            return f(x - 1, n=10) if x else 0
        case 11:
            return __name__, __file__[-4:]
        case _:
            raise ValueError(x)
"""
ARGUMENTS = [
    *(
        "True",
        "-0.0",
        "0.1",
        "2**3",
        "'\\ud800'",
        "'\\u2028\\x00'",
        "b'\\xff'",
        "1-2j",
        "{'a': {1}}",
    ),
    *("1e999", "[[[(1,), {2: None}]]]", "n=2", "[2, 1], n=3", "'abc', n=4", "7, n=5", "'ab', n=6"),
    *("n=7", "n=8", "1, n=9", "50, n=10", "5000, n=10", "n=11", "n=12", "x={}", "{1, 2}", "..."),
]
WRONG = ["None", "0", "1", "[]", "'focal'", "('focal', 'l.py')", "\"<class 'focal.Kind'>\"", "3.5"]


@pytest.mark.slow
def test_what_it_refutes_fails_in_earnest() -> None:
    """Many tests, each asked both ways in the real sandbox; hopeful and wrong ones."""
    rng = random.Random(0)
    own: dict[str, object] = {"__name__": "focal", "__file__": "focal.py"}
    exec(compile(TRICKY, "focal.py", "exec"), own)

    def answer(arguments: str) -> str:
        try:
            return repr(eval(f"f({arguments})", own))
        except (ValueError, RecursionError):
            return "0"

    def tests() -> str:
        asserts: list[str] = []
        for _ in range(rng.randint(1, 3)):
            arguments = rng.choice(ARGUMENTS)
            right = rng.random() < 0.8
            expected = answer(arguments) if right else rng.choice(WRONG)
            if right and arguments == "n=2":
                expected = str(len(asserts) + 1)
            sides = [f"f({arguments})", expected]
            asserts.append(
                "    assert " + " == ".join(sides if rng.random() < 0.8 else sides[::-1])
            )
        cut = rng.randint(1, len(asserts))
        parts = [asserts[:cut], asserts[cut:]]
        named = enumerate(part for part in parts if part)
        return "from focal import *\n" + "".join(
            f"def test_{9 - i}():\n" + "\n".join(part) + "\n" for i, part in named
        )

    async def ask(pool: ProcessPool, source: str) -> tuple[bool, bool] | None:
        plain = plain_tests(source, "focal", "f")
        if plain is None:
            return None
        job = TestsJob(module="focal", targets=(TRICKY,), tests=source, per_target_s=60.0)
        calls, real = await asyncio.gather(
            pool.submit(CallJob(TRICKY, plain.calls)), pool.submit(job)
        )
        (target,) = real.targets
        return bool(plain.refuted(calls.calls)), target.status == "ok" and not target.failed

    with ProcessPool(2) as pool:
        found = [asyncio.run(ask(pool, tests())) for _ in range(60)]
    seen = Counter(one for one in found if one is not None)
    assert not seen[True, True]
    assert seen[True, False] > 10
    assert seen[False, True] > 5


class _Counting(ProcessPool):
    """A pool that notes what it is given."""

    def __init__(self) -> None:
        super().__init__(1)
        self.jobs: list[str] = []

    async def submit(self, job: Job) -> Outcome:
        self.jobs.append(type(job).__name__)
        return await super().submit(job)


@pytest.mark.parametrize(
    ("assertion", "outcome"),
    [("f([1, 2]) == 3", None), ("f([1, 2], k=1) == 4", 1.0), ("f([1], k=1) == 7", 0.0)],
)
def test_refuted_tests_never_get_to_the_long_job(assertion: str, outcome: float | None) -> None:
    with _Counting() as counting:
        task = UnitTestGenerationTask(counting)
        example = task.example(ROW, origin="row")
        text = f"```python\ndef test_f():\n    assert {assertion}\n```"
        reference = rollout_of(task.answer(example))
        asyncio.run(task.score([(example, reference)]))
        before = len(counting.jobs)
        (score,) = asyncio.run(task.score([(example, rollout_of(text))]))
    jobs = counting.jobs[before:]
    assert isinstance(score, Score)
    assert jobs[0] == CallJob.__name__
    if outcome == 0.0:
        assert jobs == [CallJob.__name__]
        assert score.reason.startswith("fails on the correct code: test_f: AssertionError")
        assert score.metrics["passes_on_correct"] == 0.0
    else:
        assert jobs[1:] == ["TestsJob"]
    if outcome is not None:
        assert score.outcome == outcome


def test_a_test_of_very_many_checks_runs_as_it_is() -> None:
    head = "from focal import f\n\ndef test_a():\n"
    assert plain_tests(head + "    assert f(1) == 2\n" * 200, "focal", "f") is not None
    assert plain_tests(head + "    assert f(1) == 2\n" * 201, "focal", "f") is None
