"""`TestsJob`: what counts as a test, and what hostile tests can't make pass."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astor_rl.sandbox import codec, runs
from astor_rl.sandbox.api import Coverage, Job, Limits, Outcome, TargetResult, TestsJob

Run = Callable[[Job], Outcome]
_ADD = "def add(a, b):\n    return a + b\n"
_SUB = "def add(a, b):\n    return a - b\n"
_LOOP = "def add(a, b):\n    while True: pass\n"
_EXIT = "import os\ndef add(a, b):\n    os._exit(0)\n"
_GREEDY = "def add(a, b):\n    return [0] * 10 ** 10\n"
_LIMITS = Limits(wall_s=30, cpu_s=30)


@pytest.fixture(params=[False, True], ids=["two processes", "one process"])
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


Targets = Callable[..., tuple[TargetResult, ...]]


def _targets(run: Run, shared: bool) -> Targets:
    def targets(tests: str, *sources: str, **options: Any) -> tuple[TargetResult, ...]:
        given = {"limits": _LIMITS, "per_target_s": 10.0, "shared_process": shared, **options}
        outcome = run(TestsJob("calc", sources or (_ADD,), textwrap.dedent(tests), **given))
        assert outcome.status in ("ok", "error"), outcome
        assert len(outcome.targets) == len(sources or (_ADD,))
        return outcome.targets

    return targets


@pytest.fixture
def targets(run: Run, shared: bool) -> Targets:
    """Run tests on versions of `calc`, both ways."""
    return _targets(run, shared)


@pytest.fixture
def together(run: Run) -> Targets:
    """As `targets`, in one process."""
    return _targets(run, True)


@pytest.mark.parametrize(
    "imports",
    [
        "from calc import *",
        "import calc\nadd = calc.add",
        "from calc import add",
        "import calc as c\nadd=c.add",
    ],
)
def test_each_target_is_imported_afresh(targets: Targets, imports: str) -> None:
    results = targets(f"{imports}\ndef test_a():\n    assert add(1, 2) == 3", _ADD, _SUB, _ADD)
    assert [r.passed for r in results] == [("test_a",), (), ("test_a",)]
    assert [r.failed for r in results] == [(), ("test_a",), ()]
    assert results[1].message.startswith("test_a: AssertionError (line ")
    assert results[1].message.endswith(": assert add(1, 2) == 3)")


def test_kinds_of_tests(targets: Targets) -> None:
    tests = """
    import unittest, pytest
    from calc import add

    def helper(): assert False
    def test_function(): assert add(1, 1) == 2
    def test_raises():
        with pytest.raises(TypeError, match="unsupported"): add(1, "a")
    def test_approx(): assert add(0.1, 0.2) == pytest.approx(0.3)
    @pytest.mark.task(taskno=1)
    @pytest.mark.parametrize("a, b", [(1, 2), pytest.param(3, 4, id="big")])
    @pytest.mark.parametrize("c", [5])
    def test_table(a, b, c): assert add(a, b) + c == a + b + c
    class TestClass:
        def setup_method(self): self.one = 1
        def test_method(self): assert add(self.one, 1) == 2
        @pytest.mark.parametrize(("x",), [(1,), (2,)])
        def test_each(self, x): assert add(x, 0) == x
    class Case(unittest.TestCase):
        @classmethod
        def setUpClass(cls): cls.one = 1
        def setUp(self): self.two = 2
        def test_case(self): self.assertEqual(add(self.one, self.two), 3)
        def test_subtests(self):
            for i in range(3):
                with self.subTest(i=i): self.assertEqual(add(i, i), 2 * i)
    @pytest.fixture
    def three():
        yield 3
    def test_fixture(three, tmp_path, monkeypatch, capsys):
        print("x")
        assert capsys.readouterr().out == "x\\n"
        monkeypatch.setenv("A", "B")
        (tmp_path / "f").write_text("1")
        assert add(three, 0) == 3
    """
    (result,) = targets(tests)
    assert result.status == "ok"
    assert result.failed == ()
    assert result.passed == (
        "test_function", "test_raises", "test_approx", "test_table[0-0]", "test_table[0-big]",
        "TestClass::test_method", "TestClass::test_each[0]", "TestClass::test_each[1]",
        "Case::test_case", "Case::test_subtests", "test_fixture",
    )  # fmt: skip
    # 1 function, 1 raises, 1 approx, 2 table, 1 method, 2 each, 1 case, 3 subtests, 2 fixture
    assert result.assertions == 14


def test_a_skip_an_error_and_an_unknown_fixture_are_failures(targets: Targets) -> None:
    tests = """
    import pytest, unittest
    @pytest.mark.skip(reason="later")
    def test_mark(): pass
    @pytest.mark.skipif(True, reason="x")
    def test_if(): pass
    def test_call(): pytest.skip("now")
    def test_error(): 1 / 0
    def test_unknown(no_such_fixture): pass
    def test_exit(): raise SystemExit(0)
    async def test_async(): assert True
    class Case(unittest.TestCase):
        @unittest.skip("no")
        def test_case(self): pass
        def test_sub(self):
            with self.subTest(): self.fail()
        @unittest.expectedFailure
        def test_unexpected(self): pass
    """
    (result,) = targets(tests)
    assert result.passed == ()
    assert len(result.failed) == 10
    assert result.message == "test_mark: Skipped: later"


def test_top_level_asserts_are_one_test(targets: Targets) -> None:
    good, bad, broken = targets(
        "from calc import add\nassert add(1, 1) == 2\nfor i in range(3): assert add(i, 1) == i + 1",
        _ADD, _SUB, "def add(a, b): raise KeyError",
    )  # fmt: skip
    assert (good.status, good.passed, good.failed, good.assertions) == ("ok", ("<module>",), (), 4)
    assert (bad.status, bad.passed, bad.failed, bad.assertions) == ("ok", (), ("<module>",), 1)
    assert (broken.status, broken.failed) == ("error", ("<module>",))


def test_nothing_collected_is_nothing_passed(targets: Targets) -> None:
    (result,) = targets("from calc import add\ndef check(): assert add(1, 1) == 2")
    assert (result.status, result.passed, result.failed, result.assertions) == ("ok", (), (), 0)


def test_only_evaluated_assertions_count(targets: Targets) -> None:
    tests = """
    from calc import add
    def test_a():
        if add(1, 1) == 3:
            assert True
        return
        assert False
    """
    (result,) = targets(tests)
    assert (result.passed, result.assertions) == (("test_a",), 0)


def test_tests_that_do_not_parse(run: Run) -> None:
    outcome = run(TestsJob("calc", (_ADD, _SUB), "def test_a(:", limits=_LIMITS))
    assert outcome.status == "error"
    assert [r.status for r in outcome.targets] == ["error", "error"]
    assert "SyntaxError" in outcome.message


def test_a_target_that_does_not_load(targets: Targets) -> None:
    good, bad = targets("def test_a(): import calc", _ADD, "raise ValueError('x')")
    assert good.passed == ("test_a",)
    assert (bad.status, bad.passed, bad.message) == (
        "error", (), "the target did not load: ValueError: x",
    )  # fmt: skip


def test_a_slow_target_costs_only_itself(targets: Targets) -> None:
    tests = "from calc import add\ndef test_0(): assert True\ndef test_a(): assert add(1, 1) == 2"
    results = targets(tests, _ADD, _LOOP, _ADD, per_target_s=0.5)
    assert [r.status for r in results] == ["ok", "timeout", "ok"]
    assert results[1].passed in (("test_0",), ())  # of what had passed the other process knows
    assert results[2].passed == ("test_0", "test_a")


def test_a_crash_or_a_full_memory_costs_only_its_target(targets: Targets) -> None:
    tests = "from calc import add\ndef test_a(): assert add(1, 1) == 2"
    results = targets(tests, _ADD, _EXIT, _ADD, _GREEDY, _EXIT, _ADD)
    assert [r.status for r in results] == ["ok", "crash", "ok", "ok", "crash", "ok"]
    assert [r.passed for r in results] == [("test_a",), (), ("test_a",), (), (), ("test_a",)]
    assert results[1].message == "exited early with code 0"
    assert "MemoryError" in results[3].message


def test_tests_that_swallow_or_disarm_the_deadline(targets: Targets) -> None:
    swallow = """
    def test_a():
        while True:
            try:
                while True: pass
            except BaseException: break
    def test_b():
        while True: pass
    """
    (result,) = targets(swallow, per_target_s=0.5)
    assert result.status == "timeout"
    disarm = "import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True: pass"
    (result,) = targets(disarm, per_target_s=0.5, limits=Limits(wall_s=1, cpu_s=30))
    assert (result.status, result.message) == ("timeout", "wall-clock deadline")


def test_swallowing_every_deadline_costs_few_targets(run: Run) -> None:
    tests = """
    from calc import add
    def test_a():
        while True:
            try:
                for _ in range(10 ** 12): pass
            except BaseException: pass
    """
    job = TestsJob(
        "calc",
        (_ADD,) * 12,
        textwrap.dedent(tests),
        per_target_s=0.3,
        limits=_LIMITS,
        shared_process=True,
    )
    outcome = run(job)
    assert [r.status for r in outcome.targets] == ["timeout"] * 12
    assert {r.message for r in outcome.targets} == {"swallowed its deadlines"}
    # Two processes were waited for, thrice 0.3 s of CPU time each at the least.
    assert outcome.seconds > 1.0
    # Where only some targets do it, the others are run.
    tests = tests.replace("while True:\n            try", "while add(1, 1) != 2:\n            try")
    job = replace(job, targets=(_ADD, _SUB, _ADD), tests=textwrap.dedent(tests))
    assert [r.status for r in run(job).targets] == ["ok", "timeout", "ok"]


def test_what_processes_used_is_told_together_and_no_signal_of_one_alone(run: Run) -> None:
    crash = "import os, time\ntime.sleep(0.2)\nos.kill(os.getpid(), 9)"
    greedy = "import time\ntime.sleep(0.2)\nDATA = bytearray(60 << 20)"
    sources = (crash, greedy)
    tests = "import calc\ndef test_a(): assert calc"
    outcome = run(TestsJob("calc", sources, tests, limits=_LIMITS, shared_process=True))
    assert [result.status for result in outcome.targets] == ["crash", "ok"]
    assert (outcome.status, outcome.signal, outcome.limit, outcome.message) == ("ok", 0, "", "")
    # The first target ends two processes: that of the batch, and its own.
    assert outcome.seconds > 0.6
    assert outcome.peak_memory_mb > 60


_REACH = """
import sys, linecache, types
def values():
    frame = sys._getframe()
    while frame is not None:
        yield from [*frame.f_locals.values(), frame.f_globals]
        frame = frame.f_back
def flat(value, depth=3):
    yield value
    if depth and isinstance(value, dict): value = list(value.values())
    if depth and isinstance(value, (list, tuple, set)):
        for inner in list(value): yield from flat(inner, depth - 1)
    elif depth and not isinstance(value, (type, types.ModuleType)) and hasattr(value, "__dict__"):
        yield from flat(vars(value), depth - 1)
"""


def test_tests_cannot_reach_the_versions_from_their_frames(together: Targets) -> None:
    marked = _ADD + "# SECRET" + "-MARK\n"
    tests = _REACH + (
        "def test_a():\n"
        "    import calc, os\n"
        "    mark = 'SECRET' + '-MARK'\n"
        "    texts = [v for x in values() for v in flat(x) if type(v) is str and v != mark]\n"
        "    assert not [text for text in texts if mark in text]\n"
        "    assert not [k for k, v in linecache.cache.items() if mark in ''.join(v[2])]\n"
        "    assert not os.path.exists(calc.__file__)\n"
        "def test_b():\n"
        "    from_values = [v for x in values() for v in flat(x)]\n"
        "    assert not [v for v in from_values if type(v).__name__ in ('Target', 'Report')]\n"
        "    assert not [v for v in from_values if v in (['test_a'], [0, 1, 2])]\n"
        "    f, names = sys._getframe(), set()\n"
        "    while f is not None: names |= set(f.f_locals); f = f.f_back\n"
        "    assert not names & {'job', 'index', 'report', 'targets', 'notes', 'source', 'token'}\n"
    )
    for result in together(tests, marked, marked, _ADD, coverage_of=(1,)):
        assert result.failed == (), result


@pytest.mark.parametrize(
    "counts", [[5, 0, 0, 0], [1, 2, 3, 2], [-1, 2, 0, 0], [10**7] * 4, [1, 2, 3], [1.0, 2, 0, 0]]
)
def test_impossible_coverage_is_malformed(counts: list[Any]) -> None:
    with pytest.raises((codec.CodecError, ValueError)):
        runs._target(["ok", ["a"], [], 1, counts, ""])


@pytest.mark.parametrize("status", ["infra_error", "malformed", "crash"])
def test_a_target_cannot_claim_what_only_the_parent_sees(status: str) -> None:
    with pytest.raises(codec.CodecError, match="not a target's result"):
        runs._target([status, [], [], 0, None, ""])


def test_tests_that_change_the_framework_pass_nothing(together: Targets) -> None:
    tests = """
    import pytest, unittest
    from calc import add
    unittest.TestCase.maxDiff = None
    def test_a(): assert add(1, 1) == 2
    def test_b():
        pytest.raises = None
    """
    first, second = together(tests, _ADD, _ADD)
    for result in (first, second):
        assert (result.status, result.passed, result.failed) == ("error", (), ("test_a", "test_b"))
    assert first.message == "the tests changed pytest.raises"


def test_one_target_leaves_nothing_to_the_next(together: Targets) -> None:
    tests = """
    import os, sys, builtins, random
    import calc, helper
    def test_clean():
        assert "LEFT" not in os.environ
        assert not hasattr(builtins, "left") and not hasattr(helper, "left")
        assert not hasattr(calc, "left")
        assert sys.path[-1] != "left" and os.getcwd().endswith("box")
        os.environ["LEFT"] = "1"
        builtins.left = helper.left = calc.left = 1
        sys.path.append("left")
        os.chdir("/")
        sys.stdout = None
    def test_chance(): assert random.random() == calc.first
    """
    source = "import random\nrandom.seed(0)\nfirst = random.random()\nrandom.seed(0)"
    results = together(tests, source, source, support={"helper.py": "x = 1"})
    assert [r.failed for r in results] == [(), ()], results


_BRANCHY = """\
def sign(x):
    if x > 0:
        return 1
    elif x < 0:
        return -1
    for _ in range(3):
        x += 1
    return 0  # pragma: no cover


class Unused:
    def method(self):
        return 1
"""


@pytest.mark.parametrize("tested", ["1", "-1", "0", "1, -1, 0"])
def test_coverage_is_what_coverage_py_reports(run: Run, tmp_path: Path, tested: str) -> None:
    tests = f"from signs import sign\ndef test_a():\n    for x in ({tested},): sign(x)\n"
    outcome = run(
        TestsJob("signs", (_ADD, _BRANCHY, _BRANCHY), tests, coverage_of=(1, 2), limits=_LIMITS)
    )
    assert outcome.targets[0].coverage is None
    assert outcome.targets[1].coverage == outcome.targets[2].coverage
    (tmp_path / "signs.py").write_text(_BRANCHY)
    (tmp_path / "main.py").write_text(tests + "test_a()\n")
    command = [sys.executable, "-m", "coverage"]
    for arguments in (["run", "--branch", "--include=signs.py", "main.py"], ["json", "-o", "out"]):
        subprocess.run([*command, *arguments], cwd=tmp_path, check=True, capture_output=True)
    totals = json.loads((tmp_path / "out").read_text())["totals"]
    assert outcome.targets[1].coverage == Coverage(
        totals["covered_lines"],
        totals["num_statements"],
        totals["covered_branches"],
        totals["num_branches"],
    )
