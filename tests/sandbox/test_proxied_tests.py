"""`TestsJob` in two processes: versions compared with a reference, and hostile tests."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from astor_rl.sandbox.api import Coverage, Job, Limits, Outcome, TargetResult, TestsJob

Run = Callable[[Job], Outcome]
Targets = Callable[..., tuple[TargetResult, ...]]
_ADD = "def add(a, b):\n    return a + b\n"
_SUB = "def add(a, b):\n    return a - b\n"
_LOOP = "def add(a, b):\n    while True: pass\n"
_EXIT = "import os\ndef add(a, b):\n    os._exit(0)\n"
_LIMITS = Limits(wall_s=120, cpu_s=30)


@pytest.fixture
def apart(run: Run) -> Targets:
    """Run tests on versions of `calc`."""

    def apart(tests: str, *sources: str, **options: Any) -> tuple[TargetResult, ...]:
        given = {"limits": _LIMITS, "per_target_s": 10.0, **options}
        outcome = run(TestsJob("calc", sources, textwrap.dedent(tests), **given))
        assert outcome.status == "ok", outcome
        return outcome.targets

    return apart


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


_TESTS = """
from calc import add
def test_one(): assert add(1, 2) == 3
def test_zero(): assert add(0, 0) == 0
"""


def test_versions_are_compared_with_the_reference(apart: Targets) -> None:
    same = "def add(a, b):\n    return b + a\n"
    unseen = "def add(a, b):\n    return a + b if a < 100 else 7\n"
    other = "def add(a, b):\n    return a + b if a != 1 else 4\n"
    broken = "1 / 0"
    results = apart(
        _TESTS,
        *(_SUB, _ADD, same, unseen, _LOOP, _ADD, _EXIT, broken, other),
        reference=1,
        coverage_of=(1,),
        per_target_s=1.0,
    )
    assert [result.status for result in results] == [
        "ok", "ok", "ok", "ok", "timeout", "ok", "crash", "error", "ok",
    ]  # fmt: skip
    assert [result.differs for result in results] == [True, *[False] * 3, True, False, *[True] * 3]
    assert [result.failed for result in results if result.differs and result.status == "ok"] == [
        ("test_one",),
        ("test_one",),
    ]
    passing = [result for result in results if not result.differs]
    assert {(result.passed, result.assertions) for result in passing} == {
        (("test_one", "test_zero"), 2)
    }
    assert results[1].coverage == Coverage(2, 2, 0, 0)
    assert "ZeroDivisionError" in results[7].message


def test_tests_that_fail_on_the_reference_meet_no_other_version(apart: Targets) -> None:
    wrong = _TESTS.replace("== 3", "== 4")
    first, *others = apart(wrong, _ADD, _SUB, _ADD, reference=0)
    assert first.failed == ("test_one",)
    for other in others:
        assert (other.status, other.message) == (
            "error", "not run: the tests fail on the reference",
        )  # fmt: skip


def test_a_difference_that_the_tests_do_not_mind_is_no_failure(apart: Targets) -> None:
    tests = "from calc import add\ndef test(): assert add(1, 2) > 0"
    results = apart(tests, _ADD, _ADD.replace("a + b", "a * b"), reference=0)
    assert [(r.passed, r.differs) for r in results] == [(("test",), False), (("test",), True)]


def test_no_version_is_told_by_what_it_looks_like(apart: Targets) -> None:
    """Whatever tests find out about a version besides what it does, is the same for all."""
    marked = _ADD + "# SECRET" + "-MARK\n"
    tests = (
        _REACH
        + """
import calc, gc, inspect, os
def test_source():
    names = ("__code__", "__globals__", "__closure__", "__wrapped__", "__file__", "__dict__",
             "__loader__", "__spec__", "__builtins__", "__defaults__", "__kwdefaults__", "__init__")
    shown = [name for thing in (calc, calc.add) for name in names
             if name in repr(getattr(thing, "__dir__")()) or _there(thing, name)]
    assert shown == [], shown
    try: inspect.getsource(calc.add)
    except (TypeError, OSError): pass
    else: assert False
def _there(thing, name):
    try: value = type(thing).__getattr__(thing, name)
    except AttributeError: return False
    return True
def test_memory():
    assert calc.add(1, 1) == 2
    mark = "".join(reversed("KRAM-TERCES"))
    for thing in gc.get_objects():
        if isinstance(thing, (str, bytes, list, tuple, dict)):
            found = [x for x in flat(thing, 1) if type(x) in (str, bytes) and x is not mark]
            assert not [x for x in found if mark in str(x)[:10000]]
def test_tracing():
    assert sys.gettrace() is None
"""
    )
    for result in apart(tests, marked, marked, coverage_of=(0,), reference=0):
        assert result.failed == (), result


def test_no_template_looks_into_a_version(apart: Targets) -> None:
    source = "def call(f, *args):\n    return f(*args)\nSECRET = 'SECRET' + '-MARK'\n"
    tests = """
    import gc, pytest, calc
    TEMPLATE = "{0.__globals__}"
    def test_by_the_code():
        with pytest.raises(AttributeError): calc.call(str.format, TEMPLATE, calc.call)
        with pytest.raises(AttributeError): calc.call(TEMPLATE.format, calc.call)
    def test_by_hand():
        peer = next(o for o in gc.get_objects() if type(o).__name__ == "Peer")
        for question in (("call", str.format, (TEMPLATE, calc.call), {}),
                         ("method", TEMPLATE, "format", (calc.call,), {}),
                         ("get", calc.call, "__globals__"), ("get", calc.call, "__code__"),
                         ("special", calc.call, "__getattribute__", ("__code__",), {})):
            with pytest.raises((TypeError, AttributeError)): peer.ask(*question)
    """
    (result,) = apart(tests, source)
    assert result.failed == (), result


def test_what_one_run_leaves_behind_is_gone_for_the_next(apart: Targets) -> None:
    tests = """
    import os, fcntl, stat
    def pipes():
        for number in range(3, 100):
            try: mode = os.fstat(number).st_mode
            except OSError: continue
            if stat.S_ISFIFO(mode): yield number
    def test_first():
        assert os.listdir(".") == [] and not os.path.exists("/box/left")
        open("left", "w").write("1")
        os.makedirs("measured/1")
        open("measured/1/calc.py", "w").write("x = 1")
        for number in pipes():
            try: os.write(number, b"left")
            except OSError: pass
    def test_calls():
        from calc import add
        assert add(1, 1) == 2
    """
    results = apart(tests.replace("test_calls", "test_0"), _ADD, _ADD, _ADD, coverage_of=(0,))
    assert {result.status for result in results} <= {"ok", "malformed", "crash"}
    silent = tests.replace('b"left"', 'b""')
    results = apart(silent, _ADD, _ADD, _ADD, coverage_of=(0, 1, 2))
    assert [r.failed for r in results] == [()] * 3
    assert {r.coverage for r in results} == {Coverage(2, 2, 0, 0)}


@pytest.mark.parametrize(
    ("tests", "status", "message"),
    [
        ("import os\nos._exit(0)", "crash", "exited early with code 0"),
        ("import os\nos.kill(os.getpid(), 9)", "crash", "killed by signal 9"),
        ("while True: pass", "timeout", "over 0.4"),
        (
            "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
            "timeout",
            "",
        ),
        (
            "import signal\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True: pass",
            "timeout",
            "CPU deadline",
        ),
    ],
)
def test_how_the_tests_process_ended(apart: Targets, tests: str, status: str, message: str) -> None:
    limits = Limits(wall_s=300, cpu_s=30)
    for result in apart(tests, _ADD, _ADD, per_target_s=0.4, limits=limits):
        assert (result.status, result.passed) == (status, ()), result
        assert message in result.message


_FORGED = """
import gc, os, sys
from calc import add
def peer(): return next(o for o in gc.get_objects() if type(o).__name__ == "Peer")
def finish(said):
    import struct
    def value(x):
        if type(x) is list: return b"l" + struct.pack("<I", len(x)) + b"".join(map(value, x))
        if type(x) is str: return b"s" + struct.pack("<I", len(x)) + x.encode()
        return b"i" + struct.pack("<I", 1) + bytes([x])
    peer().finish(value(said))
"""


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        ("peer().finish(b'noise')", "malformed"),
        ("peer().finish(b'')", "malformed"),
        ("finish([[['ok', 3, '']], 1])", "malformed"),
        ("finish([[['ok', 'test', '']], 'many'])", "malformed"),
        ("finish([[['infra_error', 'test', 'x']], 1])", "malformed"),
        ("finish([[['ok', 'test', ['x']]], 1])", "malformed"),
        ("peer()._channel.send(b'!noise')", "malformed"),
        ("peer()._channel.send(b'?noise')", "malformed"),
        ("os.write(peer()._channel._writes, b'\\xff' * 9)", "malformed"),
        ("peer()._channel.send(b'?' + b'N' * (1 << 20))", "malformed"),
    ],
)
def test_bytes_of_the_tests_are_no_result(apart: Targets, attack: str, status: str) -> None:
    tests = f"{_FORGED}\n{attack}\nos._exit(0)\ndef test(): assert add(1, 1) == 2\n"
    first, second = apart(tests, _ADD, _SUB)
    assert (first.status, second.status) == (status, status)
    assert first.passed == second.passed == ()


def test_the_end_is_heard_before_the_first_question(apart: Targets) -> None:
    # Tests that end at once can be gone before the version is ready for them.
    for _ in range(60):
        for result in apart("import os\nos._exit(0)", _ADD, _ADD):
            assert result.status == "crash", result


def test_coverage_counts_what_one_process_counts(apart: Targets) -> None:
    code = """
class Box:
    def __init__(self, items):
        self.items = items

    @property
    def size(self):
        if self.items:
            return len(self.items)
        return 0

    def __iter__(self):
        for item in self.items:
            yield item

    def sorted(self, key):
        def wrapped(item):
            value = key(item)
            return -value if value > 1 else value
        return sorted(self.items, key=wrapped)

def unused():
    return 1
"""
    tests = """
    import pytest
    from calc import Box
    def test_size(): assert Box([1]).size == 1
    def test_items(): assert list(Box([1, 2])) == [1, 2]
    def test_sorted(): assert Box([1, 2]).sorted(lambda item: item) == [2, 1]
    def test_error():
        with pytest.raises(ZeroDivisionError): Box([1]).sorted(lambda item: 1 / 0)
    """
    (alone,) = apart(tests, code, coverage_of=(0,), shared_process=True)
    (served,) = apart(tests, code, coverage_of=(0,))
    assert (alone.failed, served.failed) == ((), ())
    assert alone.coverage == served.coverage == Coverage(16, 18, 3, 4)
