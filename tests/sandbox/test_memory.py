"""Tests that remember the reference's answers, to compare other versions with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from astor_rl.sandbox.api import Job, Limits, Outcome, TestsJob

Run = Callable[[Job], Outcome]
_LOGGING = "import logging\nlogger = logging.getLogger(__name__)\n"
_ADD = _LOGGING + "def add(a, b):\n    return a + b\n"
_KEPT_IN_A_LOGGER = """
import calc
def test_a():
    got = [calc.add(a, b) for a in range(3) for b in range(3)]
    if hasattr(calc.logger, "answers"):
        assert calc.logger.answers == got
    else:
        calc.logger.answers = got
        assert got
"""


def _job(tests: str, *sources: str) -> TestsJob:
    limits = Limits(wall_s=120, cpu_s=30)
    return TestsJob("calc", sources, tests, per_target_s=10, limits=limits, reference=0)


def test_a_version_shares_no_memory_with_the_next(run: Run) -> None:
    sources = (_ADD, _ADD.replace("a + b", "a - b"), _ADD.replace("a + b", "a * b"), _ADD)
    outcome = run(_job(_KEPT_IN_A_LOGGER, *sources))
    assert [target.failed for target in outcome.targets] == [()] * 4
    assert [target.differs for target in outcome.targets] == [False, True, True, False]


_KEPT_IN_A_TIME = """
import os, zlib
from calc import add
def test_a():
    got = zlib.crc32(repr([add(a, b) for a in range(9) for b in range(9)]).encode())
    mark = 4242 * 10**12
    seen = os.stat(".").st_mtime_ns
    if seen // 10**12 == 4242:
        assert seen == mark + got
    else:
        os.utime(".", ns=(0, mark + got))
        assert got
"""


def test_the_time_of_the_scratch_directory_tells_nothing(run: Run) -> None:
    outcome = run(_job(_KEPT_IN_A_TIME, _ADD, _ADD.replace("a + b", "a - b"), _ADD))
    assert [(t.status, t.failed) for t in outcome.targets] == [("ok", ())] * 3


def test_files_that_later_runs_could_find_are_removed_or_the_verdict_is_void(run: Run) -> None:
    keeps = """
import os
from calc import add
def test_a():
    assert os.listdir(".") == []
    home = os.getcwd()
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(home)
    assert add(1, 2) == 3
"""
    sources = (_ADD, _ADD.replace("a + b", "a - b"), _ADD)
    correct, mutant, again = run(_job(keeps, *sources)).targets
    assert correct.passed == again.passed == ("test_a",)
    assert mutant.message.startswith("test_a: AssertionError")
    assert "add(1, 2)" in mutant.message


_KEPT_IN_PROCESS_IDS = """
import os, threading, zlib
from calc import add
def test_a():
    got = zlib.crc32(repr([add(a, b) for a in range(9) for b in range(9)]).encode()) % 1000 + 100
    used = os.getpid() - os.getppid()
    if used >= 20:
        assert got <= used <= got + 40
    for _ in range(got):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    assert got
"""


def test_tests_that_meet_other_versions_first_do_not_know_which_answers_to_keep(run: Run) -> None:
    signs = ("a - b", "a * b", "a + b + 1", "b")
    sources = (_ADD, *(_ADD.replace("a + b", sign) for sign in signs), _ADD)
    outcome = run(_job(_KEPT_IN_PROCESS_IDS, *sources))
    assert outcome.targets[0].failed == ("test_a",)
    assert {target.message for target in outcome.targets[1:]} == {
        "not run: the tests fail on the reference"
    }


@pytest.mark.parametrize("at_first", ["return", "os._exit(0)"])
def test_tests_that_judge_the_same_version_in_two_ways_are_worth_nothing(
    run: Run, at_first: str
) -> None:
    tests = f"""
import os
from calc import add
def test_a():
    if add(1, 2) != 3 and os.getpid() - os.getppid() < 4:
        {at_first}
    assert add(1, 2) == 3
    assert add(1, 1) == 2
"""
    outcome = run(_job(tests, _ADD, _ADD.replace("a + b", "a - b"), _ADD))
    correct, mutant, again = outcome.targets
    assert (correct.status, correct.passed) == ("error", ())
    assert correct.message == "the tests' verdict depends on what ran before"
    assert mutant.status == again.status == "error"


def test_a_version_that_only_a_deadline_tells_apart_is_not_killed(run: Run) -> None:
    tests = """
import os
from calc import add
def test_a():
    while add(1, 2) != 3 and os.getpid() - os.getppid() < 4:
        pass
    assert add(1, 2) == 3
"""
    job = _job(tests, _ADD, _ADD.replace("a + b", "a - b"), _ADD)
    correct, mutant, again = run(replace(job, per_target_s=0.5)).targets
    assert correct.passed == again.passed == ("test_a",)
    assert (mutant.failed, mutant.differs) == (("test_a",), False)
