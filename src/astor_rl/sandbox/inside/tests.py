"""Harness of `TestsJob`: the same tests on several versions of a module, in one process.

Each target has fresh namespaces, a deadline of its own and a message of its own, so that a crash
loses only the targets after it. While tests run, no frame below them holds a target, its index or a
result (see `child`): those are arguments and results of `map`, which keeps them to itself.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, tee
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, NamedTuple

from astor_rl.sandbox.inside import guard, modules
from astor_rl.sandbox.inside.collect import collect
from astor_rl.sandbox.inside.counting import (
    COUNTER,
    Counter,
    asserts_at_top_level,
    instrumented,
)
from astor_rl.sandbox.inside.measure import Measurement, Target
from astor_rl.sandbox.inside.protocol import END, STUCK

TOP_LEVEL: Final = "<module>"
"""Name of the test that a module's own top-level asserts are."""
TESTS_MODULE: Final = "test_target"
_AGAIN_S: Final = 0.2
_FIRINGS: Final = 3
"""Deadlines that a target gets. Whoever is still there at the last has swallowed the others."""

_exit = os._exit

_counter = Counter()
_counter.watch_unittest()
_counter.watch_pytest(importlib.import_module("pytest"))
_measurement = Measurement()
guard.watch(sys.modules[__name__])


class Deadline(BaseException):
    """The target's time is over. Not an `Exception`, so that tests rarely swallow it."""


class Note(NamedTuple):
    """How one test ended.

    Attributes:
        status: `ok`; `error`: the tests' module didn't load; `timeout`: it had to stop here.
        name: the test's, empty if the deadline came.
        failure: empty if it passed.
    """

    status: str
    name: str
    failure: str


class _Setting(NamedTuple):
    """What is the same for all targets, and no secret."""

    module: str
    tests: CodeType
    asserts: bool
    support: Mapping[str, str]
    per_target_s: float
    seed: int


class _Tested(NamedTuple):
    notes: Sequence[Note]
    assertions: int


def run(job: Mapping[str, Any], output_limit: int) -> Iterator[list[Any]]:
    """One row for each target, in the order asked for, then the end.

    A row is `[status, passed, failed, assertions, coverage or None, message]`.
    """
    try:
        code = modules.compiled(instrumented(job["tests"]), f"{TESTS_MODULE}.py", job["tests"])
    except SyntaxError as error:
        return iter([[END, "error", modules.one_line(error)]])
    setting = _Setting(
        job["module"],
        code,
        asserts_at_top_level(job["tests"]),
        job["support"],
        job["per_target_s"],
        job["seed"],
    )
    sources = [job["targets"][index] for index in job["order"]]
    wanted = [index in job["coverage_of"] for index in job["order"]]
    # Twice the same targets: one for the tests, which drop it, and one for the row.
    for_row, for_tests = tee(map(partial(_measurement.target, job["module"]), sources, wanted))
    rows = map(partial(_row, guard.snapshot()), for_row, map(partial(_tested, setting), for_tests))
    return chain(rows, [[END, "ok", ""]])


def _row(changed: Callable[[], str], target: Target, tested: _Tested) -> list[Any]:
    notes = tested.notes
    passed = [note.name for note in notes if not note.failure]
    failed = [note.name for note in notes if note.failure and note.name]
    message = next((note.failure for note in notes if note.failure), "")
    status = next((note.status for note in notes if note.status != "ok"), "ok")
    if difference := changed():
        message = f"the tests changed {difference}"
        return ["error", [], [*passed, *failed], tested.assertions, None, message]
    return [status, passed, failed, tested.assertions, target.coverage(), message]


def explain(error: BaseException, file: str) -> str:
    """The exception, and the line of the test file it came through."""
    text = modules.one_line(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if not frames:
        return text
    return f"{text} (line {frames[-1].lineno}: {(frames[-1].line or '').strip()[:120]})"


def run_tests(name: str, code: CodeType, file: str, asserts: bool) -> Iterator[Note]:
    """Load the tests' module and run what it defines: a note for each test."""
    builtins_module = modules.share_no_builtins()
    builtins_module.__dict__[COUNTER] = _counter.add
    _counter.count = 0
    loaded: list[ModuleType] = []
    try:
        error = failure(lambda: loaded.append(modules.execute(name, code, file, builtins_module)))
        if asserts or error is not None:
            fine = error is None or (asserts and isinstance(error, AssertionError))
            yield _note(TOP_LEVEL, error, file, "ok" if fine else "error")
        for module in loaded:
            for test in collect(module):
                yield _note(test.name, failure(test.run), file)
    except Deadline as late:
        yield Note("timeout", "", f"over {late} s")


def assertions() -> int:
    """How many were evaluated since `run_tests` began."""
    return _counter.count


def _note(name: str, error: BaseException | None, file: str, status: str = "ok") -> Note:
    return Note(status, name, "" if error is None else f"{name}: {explain(error, file)}")


def failure(run: Callable[[], None]) -> BaseException | None:
    """What is raised, but for the deadline.

    Raises:
        Deadline: the time is over.
    """
    try:
        run()
    except Deadline:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit and pytest's own outcomes
        return error
    return None


def _tested(setting: _Setting, target: Target) -> _Tested:
    finder = modules.SourceFinder(setting.support)
    file = f"{TESTS_MODULE}.py"
    with as_it_was(), importable(finder, (setting.module, TESTS_MODULE)):
        random.seed(setting.seed)
        try:
            with deadline(setting.per_target_s), _measurement.stopped():
                error = failure(target.load)
                del target
                if error is not None:
                    text = f"the target did not load: {modules.one_line(error)}"
                    return _Tested([Note("error", "", text)], 0)
                tests = run_tests(TESTS_MODULE, setting.tests, file, setting.asserts)
                return _Tested(list(tests), assertions())
        except Deadline as late:  # between two tests
            return _Tested([Note("timeout", "", f"over {late} s")], 0)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `Deadline` after so many seconds of CPU time; leave if it is swallowed thrice."""
    firings = 0

    def expired(number: int, frame: FrameType | None) -> None:
        nonlocal firings
        firings += 1
        if firings == _FIRINGS:
            _exit(STUCK)
        raise Deadline(seconds)

    # Of CPU time, so that a verdict does not depend on how busy the machine is; what sleeps is
    # ended by the job's wall-clock limit.
    signal.signal(signal.SIGPROF, expired)
    # It comes again, should the tests swallow the first.
    signal.setitimer(signal.ITIMER_PROF, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def importable(finder: modules.SourceFinder, others: tuple[str, ...]) -> Iterator[None]:
    """Import from a finder, and forget its modules and the others afterwards."""
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path[:] = [entry for entry in sys.meta_path if entry is not finder]
        finder.forget(others)


@contextmanager
def as_it_was() -> Iterator[None]:
    """Undo what one target's run commonly leaves behind for the next."""
    environment, argv, path = dict(os.environ), list(sys.argv), list(sys.path)
    streams, limit = (sys.stdin, sys.stdout, sys.stderr), sys.getrecursionlimit()
    folder = os.getcwd()
    try:
        yield
    finally:
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.argv[:], sys.path[:] = argv, path
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.setrecursionlimit(limit)
        os.chdir(folder)
