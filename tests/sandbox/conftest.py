"""One pool for all sandbox tests, and a short way to run a job on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import astor_rl
from astor_rl.sandbox.api import CallJob, Job, Limits, Outcome, SuiteJob
from astor_rl.sandbox.pool import ProcessPool


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def run(pool: ProcessPool) -> Callable[[Job], Outcome]:
    def run(job: Job) -> Outcome:
        return next(iter(pool.map([job])))

    return run


@pytest.fixture(scope="session")
def call(run: Callable[[Job], Outcome]) -> Callable[..., Outcome]:
    """Run code and evaluate expressions, with limits given by name."""

    def call(code: str, *calls: str, stdin: str = "", repeat: int = 1, **limits: Any) -> Outcome:
        given = Limits(**{"wall_s": 20.0, "cpu_s": 20.0, **limits})
        return run(CallJob(code, calls, repeat=repeat, stdin=stdin, limits=given))

    return call


@pytest.fixture(scope="session")
def suite(run: Callable[[Job], Outcome]) -> Callable[..., Outcome]:
    """Run tests (pytest or unittest style) on a solution: `sol.py`, and `more` files."""

    def suite(
        solution: str, tests: str, more: Mapping[str, str] | None = None, **options: Any
    ) -> Outcome:
        files = {"sol.py": textwrap.dedent(solution), **(more or {})}
        given = {"limits": Limits(wall_s=60.0, cpu_s=20.0), **options}
        return run(SuiteJob(files, {"sol_test.py": textwrap.dedent(tests)}, **given))

    return suite


@pytest.fixture(scope="session")
def check(suite: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run tests as `suite` does; all of them must pass."""

    def check(solution: str, tests: str, **options: Any) -> Outcome:
        outcome = suite(solution, tests, **options)
        (result,) = outcome.targets
        assert (outcome.status, result.failed, outcome.message) == ("ok", (), ""), outcome
        assert result.passed
        return outcome

    return check


@pytest.fixture(scope="session")
def ordinary_python() -> str:
    """A Python that uid 1000 can run here, on this checkout and these packages; else a skip.

    Trying says it: a closed folder anywhere, of libraries as of the checkout, is enough.
    """
    python = shutil.which("python3", path="/usr/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, to become an ordinary user, and the system's python3")
    read = "import sys; [open(path).close() for path in sys.argv[1:]]; print(sys.version_info[:2])"
    places = (__file__, astor_rl.__file__, pytest.__file__)
    try:
        tried = subprocess.run(
            [python, "-c", read, *places],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=1000,
            group=1000,
            extra_groups=[],
        )
    except OSError as error:
        pytest.skip(f"ordinary users can't run {python} here: {error}")
    if tried.returncode:
        last = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
        pytest.skip(f"ordinary users can't run the tests' files here: {last}")
    if tried.stdout.strip() != str(sys.version_info[:2]):
        pytest.skip(f"the system's python is {tried.stdout.strip()}, the packages are of another")
    return python


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], set[int]]:
    return _children


def _children(of: int) -> set[int]:
    """Every living descendant, zombies included."""
    found: set[int] = set()
    waiting = [of]
    while waiting:
        with contextlib.suppress(OSError):  # it ended in the meantime
            for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                new = {int(pid) for pid in task.read_text().split()} - found
                found |= new
                waiting += new
    return found
