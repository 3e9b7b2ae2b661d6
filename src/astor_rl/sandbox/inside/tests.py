"""Harness of `TestsJob`: the same tests on several versions of a module, in one process.

Each target has fresh namespaces, a deadline of its own and a message of its own, so that a crash
loses only the targets after it.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from astor_rl.sandbox.inside import modules
from astor_rl.sandbox.inside.collect import collect
from astor_rl.sandbox.inside.counting import (
    COUNTER,
    Counter,
    asserts_at_top_level,
    instrumented,
)
from astor_rl.sandbox.inside.measure import Measurement

Emit = Callable[[Any], None]
TOP_LEVEL: Final = "<module>"
"""Name of the test that a module's own top-level asserts are."""
TESTS_MODULE: Final = "test_target"
_AGAIN_S: Final = 0.5

_counter = Counter()
_counter.watch_unittest()
_counter.watch_pytest(importlib.import_module("pytest"))
_measurement = Measurement()


class Deadline(BaseException):
    """The target's time is over. Not an `Exception`, so that tests rarely swallow it."""


def run(job: Mapping[str, Any], output_limit: int, emit: Emit) -> list[Any]:
    """Emit one row for each target (see `Report.row`); return `[status, message]`."""
    try:
        code = modules.compiled(instrumented(job["tests"]), f"{TESTS_MODULE}.py", job["tests"])
    except SyntaxError as error:
        return ["error", modules.one_line(error)]
    asserts = asserts_at_top_level(job["tests"])
    for index in job["order"]:
        report = Report()
        measured = index in job["coverage_of"]
        _run_target(job, index, code, asserts, report, measured)
        emit([index, *report.row()])
    return ["ok", ""]


class Report:
    """What the tests of one module said."""

    def __init__(self, on_test: Callable[[str, bool], None] | None = None) -> None:
        self.status = "ok"
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.message = ""
        self.coverage: list[int] | None = None
        self.assertions = 0
        self._on_test = on_test

    def note(self, name: str, error: BaseException | None, file: str) -> None:
        """One test's end; the first failure becomes the message."""
        (self.passed if error is None else self.failed).append(name)
        if error is not None and not self.message:
            self.message = f"{name}: {explain(error, file)}"
        if self._on_test is not None:
            self._on_test(name, error is None)

    def row(self) -> list[Any]:
        """`[status, passed, failed, assertions, coverage or None, message]`."""
        return [
            self.status,
            self.passed,
            self.failed,
            self.assertions,
            self.coverage,
            self.message,
        ]


def explain(error: BaseException, file: str) -> str:
    """The exception, and the line of the test file it came through."""
    text = modules.one_line(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    if not frames:
        return text
    return f"{text} (line {frames[-1].lineno}: {(frames[-1].line or '').strip()[:120]})"


def run_tests(name: str, code: CodeType, file: str, asserts: bool, report: Report) -> None:
    """Load the tests' module and run what it defines, noting each test."""
    builtins_module = modules.share_no_builtins()
    builtins_module.__dict__[COUNTER] = _counter.add
    _counter.count = 0
    try:
        module = _load_tests(name, code, file, asserts, report, builtins_module)
        if module is not None:
            for test in collect(module):
                report.note(test.name, _failure(test.run), file)
    finally:
        report.assertions = _counter.count


def _load_tests(
    name: str,
    code: CodeType,
    file: str,
    asserts: bool,
    report: Report,
    builtins_module: ModuleType,
) -> ModuleType | None:
    loaded: list[ModuleType] = []
    error = _failure(lambda: loaded.append(modules.execute(name, code, file, builtins_module)))
    if error is not None and not (asserts and isinstance(error, AssertionError)):
        report.status = "error"
    if asserts or error is not None:
        report.note(TOP_LEVEL, error, file)
    return loaded[0] if loaded else None


def _failure(run: Callable[[], None]) -> BaseException | None:
    try:
        run()
    except Deadline:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit and pytest's own outcomes
        return error
    return None


def _run_target(
    job: Mapping[str, Any],
    index: int,
    tests: CodeType,
    asserts: bool,
    report: Report,
    measured: bool,
) -> None:
    finder = modules.SourceFinder(job["support"])
    file = f"{TESTS_MODULE}.py"
    with _as_it_was(), _importable(finder, (job["module"], TESTS_MODULE)):
        random.seed(job["seed"])
        try:
            with _deadline(job["per_target_s"]):
                with _measurement.of(job["module"], job["targets"][index], measured) as target:
                    error = _failure(target.load)
                    if error is not None:
                        report.status = "error"
                        report.message = f"the target did not load: {modules.one_line(error)}"
                        return
                    run_tests(TESTS_MODULE, tests, file, asserts, report)
                report.coverage = target.coverage()
        except Deadline:
            report.status = "timeout"
            report.message = report.message or f"over {job['per_target_s']} s"


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    def expired(number: int, frame: FrameType | None) -> None:
        raise Deadline

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
def _importable(finder: modules.SourceFinder, others: tuple[str, ...]) -> Iterator[None]:
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path[:] = [entry for entry in sys.meta_path if entry is not finder]
        finder.forget(others)


@contextmanager
def _as_it_was() -> Iterator[None]:
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
