"""From a job to its outcome: which harness runs it, and what the bytes that come back mean."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from astor_rl.sandbox import codec
from astor_rl.sandbox.api import (
    CallJob,
    CallResult,
    Coverage,
    Job,
    Limits,
    Outcome,
    Status,
    SuiteJob,
    TargetResult,
    TestsJob,
)
from astor_rl.sandbox.messages import SAID, SAID_OF_OTHERS, one_line, outcome_of, stuck
from astor_rl.sandbox.worker import Profile, Run
from astor_rl.syntax import parse

Runner = Callable[[Profile, dict[str, Any], Limits], tuple[Run, str]]
"""Runs one child: (profile, JSON job, limits) -> (how it ended, tier)."""
_TEST_MODULES: Final = ("pytest", "coverage", "unittest.mock", "doctest")
_NOT_REACHED: Final = "<not reached>"
"""Name of the failure that stands for whatever a run that stopped early did not report."""
_SHARED: Final = ("tests", "suite")
_PROXIED: Final = ("proxied",)
"""Harnesses of zygotes that fork a second process for each job."""
_SAID_OF_TARGET: Final[frozenset[Status]] = SAID | {"timeout"}
_STUCK_AT_MOST: Final = 2
_MOST: Final = 10**6
"""Lines or branches of one target beyond which counts are made up."""
_ALONE_S: Final = 1.0
"""What a target on its own may take beyond its deadline (start, import), seconds."""


class InfraError(Exception):
    """The sandbox failed, not the job."""


def execute(job: Job, run: Runner, preload: Sequence[str]) -> Outcome:
    """Run a job of any kind. What its code does never raises."""
    try:
        match job:
            case CallJob():
                return _Calls(job, run, preload).outcome()
            case TestsJob():
                if job.shared_process:
                    return _Tests(job, run, preload).outcome()
                return _proxied_tests(job, run, preload)
            case SuiteJob():
                return _suite(job, run, preload)
    except InfraError as error:
        return Outcome(status="infra_error", message=f"sandbox failure: {error}")


class _Calls:
    """A `CallJob`: as many processes as it has repeats."""

    def __init__(self, job: CallJob, run: Runner, preload: Sequence[str]) -> None:
        self._job = job
        self._run = run
        self._profile = Profile(("calls",), tuple(preload), keep_paths=bool(preload))

    def outcome(self) -> Outcome:
        job = self._job
        runs = []
        for seed in range(max(1, job.repeat)):
            outcome, rows = self._once(seed)
            if outcome.status != "ok":
                return outcome
            runs.append(rows)
        try:
            calls = tuple(_call_result(results) for results in zip(*runs, strict=True))
        except (codec.CodecError, TypeError, ValueError) as error:
            return replace(outcome, status="malformed", message=f"not a result: {error}")
        return replace(outcome, calls=calls)

    def _once(self, seed: int) -> tuple[Outcome, list[Any]]:
        """One run. Another seed each time: a result that depends on chance shall show."""
        job = self._job
        payload = {
            "harness": "calls",
            "code": job.code,
            "calls": job.calls,
            "stdin": job.stdin,
            "seed": seed,
        }
        outcome, _, last = outcome_of(*self._run(self._profile, payload, job.limits))
        if outcome.status != "ok":
            return outcome, []
        rows = last[0] if len(last) == 1 else None
        if not isinstance(rows, list) or len(rows) != len(job.calls):
            return replace(outcome, status="malformed", message="not one result a call"), []
        return outcome, rows


def _call_result(repeats: Sequence[Any]) -> CallResult:
    kind, data, error, message = repeats[0]
    if any(again != repeats[0] for again in repeats[1:]):
        return CallResult("unstable")
    if kind == "value":
        return CallResult("value", value=codec.decode(data))
    if kind == "raised" and type(error) is str and type(message) is str:
        return CallResult("raised", error=error, message=message)
    raise codec.CodecError("unknown kind of result")


def _tests_profile(preload: Sequence[str], *harnesses: str) -> Profile:
    return Profile(harnesses, (*_TEST_MODULES, *preload), keep_paths=bool(preload), extra="tasks")


class _Tests:
    """A `TestsJob` in one process for all targets; what that loses, one process a target."""

    def __init__(self, job: TestsJob, run: Runner, preload: Sequence[str]) -> None:
        self._job = job
        self._run = run
        self._profile = _tests_profile(preload, *_SHARED)
        self._found: dict[int, TargetResult] = {}
        self._seconds = 0.0
        self._peak_mb = 0.0

    def outcome(self) -> Outcome:
        job = self._job
        everything = range(len(job.targets))
        outcome = self._batch(everything, job.limits)
        if outcome.status == "error":  # the tests don't parse: the same for every target
            rows = [_no_target("error", outcome.message)] * len(job.targets)
            return replace(outcome, targets=tuple(rows))
        if stuck(outcome):
            self._past_stuck(outcome)
        alone = replace(job.limits, wall_s=min(job.limits.wall_s, job.per_target_s + _ALONE_S))
        for index in everything:
            if index not in self._found:
                single = self._batch([index], alone)
                row = self._found.get(index)
                if row is None or single.status != "ok":
                    self._found[index] = _no_target(single.status, single.message)
        # How each process ended is told by its targets; what they used, they used together.
        return replace(
            outcome,
            status="ok",
            message="",
            limit="",
            signal=0,
            seconds=self._seconds,
            peak_memory_mb=self._peak_mb,
            targets=tuple(self._found[index] for index in everything),
        )

    def _past_stuck(self, outcome: Outcome) -> None:
        """Give up the target where the tests got stuck and go on with those after it.

        Tests that get stuck on the first targets, whatever these are, do so on all: only
        `_STUCK_AT_MOST` of them are waited for.
        """
        everything = range(len(self._job.targets))
        waited = 0
        while stuck(outcome) and (left := [i for i in everything if i not in self._found]):
            waited += 1
            hopeless = waited >= _STUCK_AT_MOST and all(
                row.status == "timeout" for row in self._found.values()
            )
            for index in left if hopeless else left[:1]:
                self._found[index] = _no_target("timeout", outcome.message)
            if len(left) > 1 and not hopeless:
                outcome = self._batch(left[1:], self._job.limits)

    def _batch(self, order: Sequence[int], limits: Limits) -> Outcome:
        job = self._job
        payload = {**_tests_payload(job, order), "harness": "tests"}
        outcome, rows, _ = outcome_of(*self._run(self._profile, payload, limits))
        self._seconds += outcome.seconds
        self._peak_mb = max(self._peak_mb, outcome.peak_memory_mb)
        try:
            if len(rows) > len(order):
                raise codec.CodecError("more rows than targets")
            for index, row in zip(order, rows, strict=False):
                self._found[index] = _target(row)
        except (codec.CodecError, TypeError, ValueError) as error:
            return replace(outcome, status="malformed", message=f"not a result: {error}")
        return outcome


def _tests_payload(job: TestsJob, order: Sequence[int]) -> dict[str, Any]:
    return {
        "module": job.module,
        "targets": job.targets,
        "order": list(order),
        "tests": job.tests,
        "coverage_of": job.coverage_of,
        "support": dict(job.support),
        "per_target_s": job.per_target_s,
        "stdin": "",
        "seed": 0,
    }


def _proxied_tests(job: TestsJob, run: Runner, preload: Sequence[str]) -> Outcome:
    """A `TestsJob` with the tests in processes of their own."""
    everything = range(len(job.targets))
    payload = {
        **_tests_payload(job, everything),
        "harness": "proxied",
        "kind": "tests",
        "reference": job.reference,
    }
    ran = run(_tests_profile(preload, *_PROXIED), payload, job.limits)
    outcome, rows, _ = outcome_of(*ran, said=SAID_OF_OTHERS)
    found: dict[int, TargetResult] = {}
    for index, *row, differs in rows:
        try:
            result = _target(row, SAID_OF_OTHERS)
        except (codec.CodecError, TypeError, ValueError) as error:  # what the tests said
            result = _no_target("malformed", f"not a result: {error}")
        found[index] = replace(result, differs=differs)
    left: TargetResult = _no_target(outcome.status, outcome.message)
    if outcome.status == "ok":
        left = _no_target("error", "not run: the tests fail on the reference")
    if outcome.status != "error":
        outcome = replace(outcome, status="ok", message="", limit="", signal=0)
    return replace(outcome, targets=tuple(found.get(index, left) for index in everything))


def _no_target(status: Status, message: str) -> TargetResult:
    return TargetResult(status, (), (), 0, None, message)


def _target(row: Sequence[Any], said: frozenset[Status] = _SAID_OF_TARGET) -> TargetResult:
    """Check one row of `inside.tests.run`.

    Raises:
        CodecError, TypeError, ValueError: it isn't one.
    """
    status, passed, failed, assertions, counts, message = row
    names = [*passed, *failed]
    if status not in said or type(assertions) is not int or type(message) is not str:
        raise codec.CodecError("not a target's result")
    if any(type(name) is not str for name in names):
        raise codec.CodecError("not a test's name")
    coverage = None if counts is None else _coverage(counts)
    return TargetResult(status, tuple(passed), tuple(failed), assertions, coverage, message)


def _coverage(counts: Sequence[Any]) -> Coverage:
    """Check counts before anyone divides by them.

    Raises:
        CodecError, TypeError, ValueError: they can't be.
    """
    if any(type(n) is not int for n in counts):
        raise codec.CodecError("not coverage")
    lines_hit, lines, branches_hit, branches = counts
    if not (0 <= lines_hit <= lines <= _MOST and 0 <= branches_hit <= branches <= _MOST):
        raise codec.CodecError("impossible coverage")
    return Coverage(lines_hit, lines, branches_hit, branches)


def _suite(job: SuiteJob, run: Runner, preload: Sequence[str]) -> Outcome:
    payload = {"tests": dict(job.tests), "stdin": "", "seed": 0}
    if job.shared_process:
        files = {**job.files, **job.support}
        profile = _tests_profile(preload, *_SHARED)
        payload |= {"harness": "suite", "files": files}
        outcome, messages, last = outcome_of(*run(profile, payload, job.limits))
    else:
        profile = _tests_profile(preload, *_PROXIED)
        payload |= {
            "harness": "proxied",
            "kind": "suite",
            "files": dict(job.files),
            "support": dict(job.support),
            "judging": job.judging,
        }
        ran = run(profile, payload, job.limits)
        outcome, messages, last = outcome_of(*ran, said=SAID_OF_OTHERS)
    expected = expected_tests(job.tests)
    try:
        found = _reported(outcome, messages, last, job.shared_process)
    except (codec.CodecError, TypeError, ValueError) as error:
        outcome = replace(outcome, status="malformed", message=f"not a result: {error}")
        found = _no_target("malformed", outcome.message)
    else:
        if outcome.status == "ok":
            outcome = replace(outcome, status=found.status, message=found.message)
    seen = {name.partition("[")[0] for name in (*found.passed, *found.failed)}
    absent = tuple(name for name in expected if name not in seen)
    found = replace(found, failed=found.failed + absent)
    if absent and not found.message:
        found = replace(found, message=f"{absent[0]}: not reported")
    return replace(outcome, targets=(found,))


def _reported(
    outcome: Outcome, messages: Sequence[Any], last: Sequence[Any], shared: bool
) -> TargetResult:
    """What a suite's harness said: of a run that ended early, what came before counts.

    Raises:
        CodecError, TypeError, ValueError: it isn't that.
    """
    status, message, assertions = outcome.status, outcome.message, 0
    changed: str = ""
    judged: tuple[str, ...] = ()
    if status == "ok" and shared:
        assertions, changed = last
    elif status == "ok":
        assertions, judged = last[0], tuple(last[1])
    passed: list[str] = []
    failed = [] if status == "ok" else [_NOT_REACHED]
    for told, name, failure in messages:
        if told not in _SAID_OF_TARGET or type(name) is not str or type(failure) is not str:
            raise codec.CodecError("not a test's result")
        (failed if failure or changed else passed).append(name)
        message = message or failure
        status = told if status == "ok" else status
    if changed:
        status, message = "error", f"the solution changed {one_line(changed)}"
    if type(assertions) is not int:
        raise codec.CodecError("not a number of assertions")
    return TargetResult(
        status, tuple(passed), tuple(failed), assertions, None, message, judged=judged
    )


def expected_tests(tests: Mapping[str, str]) -> list[str]:
    """Names of the tests that files define, read without running them.

    What a solution can't prevent: it may stop a test from being collected, but not from being
    expected.
    """
    names = []
    for path, source in tests.items():
        if not path.endswith(".py"):
            continue
        prefix = f"{path}::" if len(tests) > 1 else ""
        try:
            tree = parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        names += [prefix + name for name in _defined_tests(tree)]
    return names


def _defined_tests(tree: ast.Module) -> list[str]:
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            names.append(node.name)
        elif isinstance(node, ast.ClassDef) and _is_test_class(node):
            methods = (n for n in node.body if isinstance(n, ast.FunctionDef))
            names += [f"{node.name}::{m.name}" for m in methods if m.name.startswith("test")]
    return list(dict.fromkeys(names))


def _is_test_class(node: ast.ClassDef) -> bool:
    bases = {
        base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        for base in node.bases
    }
    return node.name.startswith("Test") or any(b.endswith("TestCase") for b in bases)
