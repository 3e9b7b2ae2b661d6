"""The verdict on one function: a solution's process, and one that never sees it.

The trusted parts (tests, reference) and the solution never share a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from astor_rl.sandbox.api import CallJob, CallResult, Limits, Outcome, SandboxPool
from astor_rl.tasks.checks import Check, ReplayCheck, SplitCheck
from astor_rl.tasks.function_tier import checks_of, program, visible_tests, whole_reference
from astor_rl.tasks.literals import NAMES, LiteralError, parse_arguments, shown, to_source
from astor_rl.types import Example, Invalid


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test on one solution.

    Attributes:
        text: the test, for people.
        call: the calls it makes, without the expected value.
        passed: its verdict.
        actual: what the solution did: `returned 3`, `raised ValueError: no`.
        visible: whether the prompt shows the test's expected value.
    """

    text: str
    call: str
    passed: bool
    actual: str
    visible: bool

    __test__ = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """All tests on one solution.

    Attributes:
        results: one for each test; empty when the solution didn't load.
        loads: whether the solution could be loaded and ran to its end.
        fault: why not; one line.
        unforgeable: whether the tests ran where the solution could not touch them.
    """

    results: tuple[TestResult, ...]
    loads: bool
    fault: str = ""
    unforgeable: bool = True


Recording = tuple[str, ...]
"""Argument texts of the calls that a replayed test makes, in order, as the harness shows them."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A check and what it asks of a solution."""

    check: Check
    calls: tuple[str, ...]
    recording: Recording = ()


class FunctionJudge:
    """Runs a solution's calls in one process, and what remains of the tests in another.

    Args:
        sandbox: where both run.
        limits: of each process.
        shown_tests: the task's option, to tell which tests the prompt gives away.
    """

    def __init__(self, sandbox: SandboxPool, limits: Limits, shown_tests: int) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._shown_tests = shown_tests
        self._recordings: dict[str, tuple[Recording, ...]] = {}

    async def judge(self, example: Example, solution: str) -> Judgement | Invalid:
        """The verdicts of an example's tests on one solution; `Invalid` if tests can't judge."""
        recordings = await self.prepare(example)
        if isinstance(recordings, Invalid):
            return recordings
        asked = _asked(example, recordings)
        calls = tuple(call for one in asked for call in one.calls)
        outcome = await self._sandbox.submit(
            CallJob(program(example.fields, solution), calls, limits=self._limits)
        )
        if outcome.status == "infra_error":
            return Invalid(outcome.message or "the sandbox failed")
        if outcome.status != "ok":
            detail = f": {outcome.message}" if outcome.message else ""
            return Judgement((), loads=False, fault=f"{outcome.status}{detail}"[:300])
        taken = iter(outcome.calls)
        values = [[next(taken) for _ in one.calls] for one in asked]
        verdicts = await self._verdicts(example, asked, values)
        if isinstance(verdicts, Invalid):
            return verdicts
        texts, given_away = visible_tests(example, self._shown_tests)
        results = tuple(
            TestResult(
                text=one.check.text,
                call=", ".join(one.calls[:3]),
                passed=verdict,
                actual=_actual(found),
                visible=one.check.text in texts or set(one.calls) <= given_away,
            )
            for one, verdict, found in zip(asked, verdicts, values, strict=True)
        )
        return Judgement(results, loads=True)

    async def _verdicts(
        self, example: Example, asked: Sequence[_Asked], values: Sequence[Sequence[CallResult]]
    ) -> list[bool] | Invalid:
        """Verdicts of simple relations here; of the rest in a process without the solution."""
        verdicts = [False] * len(asked)
        left: dict[int, str] = {}
        for place, (one, results) in enumerate(zip(asked, values, strict=True)):
            if isinstance(one.check, SplitCheck) and one.check.relation != "judge":
                (result,) = results
                verdicts[place] = result.kind == "value" and one.check.holds(result.value)
            elif expression := _expression(place, one, results):
                left[place] = expression
        if not left:
            return verdicts
        outcome = await self._trusted(example, list(left.values()))
        if outcome.status in ("infra_error", "error"):
            return Invalid(f"{example.origin}: the tests can't be judged: {outcome.message}")
        if outcome.status == "ok":
            for place, result in zip(left, outcome.calls, strict=True):
                verdicts[place] = result.kind == "value" and result.value is True
        return verdicts

    async def _trusted(self, example: Example, calls: Sequence[str]) -> Outcome:
        """Evaluate expressions where the reference and the tests are, and the solution isn't."""
        row = example.fields
        code = [program(row, whole_reference(row)), NAMES, _HARNESS]
        code += [
            f"{check.source}\n_check_{place} = check\n"
            for place, check in enumerate(checks_of(example))
            if isinstance(check, ReplayCheck)
        ]
        return await self._sandbox.submit(
            CallJob("\n".join(code), tuple(calls), limits=self._limits)
        )

    async def prepare(self, example: Example) -> tuple[Recording, ...] | Invalid:
        """Learn, once, the calls that each replayed test makes of the reference."""
        checks = checks_of(example)
        places = [n for n, check in enumerate(checks) if isinstance(check, ReplayCheck)]
        if not places:
            return ()
        if example.key not in self._recordings:
            entry = example.fields["entry_point"]
            outcome = await self._trusted(
                example, [f"_record(_check_{place}, {entry})" for place in places]
            )
            recordings = _recordings(example, outcome)
            if isinstance(recordings, Invalid):
                return recordings
            self._recordings[example.key] = recordings
        return self._recordings[example.key]


_HARNESS = """
import builtins as _builtins
import copy as _copy
import random as _random

def _show(args, kwargs):
    return ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())])

def _record(check, reference):
    calls = []
    def candidate(*args, **kwargs):
        calls.append(_show(args, kwargs))
        return reference(*args, **kwargs)
    _random.seed(0)
    check(candidate)
    return calls

def _replay(check, results):
    remaining = iter(results)
    def candidate(*args, **kwargs):
        call, raised, value = next(remaining, (None, None, None))
        if call != _show(args, kwargs):
            raise AssertionError("another call than the recorded one")
        if not raised:
            return value
        error = getattr(_builtins, raised, None)
        is_error = isinstance(error, type) and issubclass(error, Exception)
        # StopIteration would end a loop of the test before it has looked.
        if not is_error or issubclass(error, StopIteration):
            error = RuntimeError
        raise error(value)
    _random.seed(0)
    check(candidate)
    return True
"""
"""Runs with trusted code only. Seeded, so that a replay draws what the recording drew."""


def _recordings(example: Example, outcome: Outcome) -> tuple[Recording, ...] | Invalid:
    if outcome.status != "ok":
        return Invalid(outcome.message or f"the tests can't be recorded: {outcome.status}")
    found: list[Recording] = []
    for result in outcome.calls:
        if result.kind != "value" or not result.value:
            why = f"raised {result.error}" if result.kind == "raised" else "makes no call"
            return Invalid(f"{example.origin}: field 'tests' {why} with the reference")
        try:
            found.append(tuple(map(str, result.value)))
            list(map(parse_arguments, found[-1]))
        except LiteralError as error:
            return Invalid(f"{example.origin}: field 'tests' makes a call that {error}")
    return tuple(found)


def _asked(example: Example, recordings: Sequence[Recording]) -> list[_Asked]:
    """Every check with its calls, those of replayed tests from their recordings."""
    entry = example.fields["entry_point"]
    left = iter(recordings)
    asked: list[_Asked] = []
    for check in checks_of(example):
        if isinstance(check, SplitCheck):
            asked.append(_Asked(check, check.calls))
        else:
            recording = next(left)
            calls = tuple(f"{entry}({parse_arguments(text)})" for text in recording)
            asked.append(_Asked(check, calls, recording))
    return asked


def _expression(place: int, asked: _Asked, results: Sequence[CallResult]) -> str:
    """The check's verdict as an expression over the solution's values, empty when it has failed."""
    try:
        if isinstance(asked.check, SplitCheck):
            return _split_expression(asked.check, results)
        entries = ", ".join(map(_replayed, asked.recording, results))
    except LiteralError:
        return ""
    return f"_replay(_check_{place}, [{entries}])"


def _split_expression(check: SplitCheck, results: Sequence[CallResult]) -> str:
    if any(result.kind != "value" for result in results):
        return ""
    names = ", ".join(f"_{place}" for place in range(len(results)))
    values = ", ".join(to_source(result.value) for result in results)
    return f"(lambda {names}: bool({check.verdict}))({values})"


def _replayed(arguments: str, result: CallResult) -> str:
    """One recorded call with what the solution did.

    Raises:
        LiteralError: its value can't be written down.
    """
    if result.kind == "value":
        return f"({arguments!r}, '', {to_source(result.value)})"
    # An unstable result replays as an exception that no test expects.
    return f"({arguments!r}, {result.error or 'RuntimeError'!r}, {result.message!r})"


def _actual(results: Sequence[CallResult]) -> str:
    """What the calls did, for people: the first that raised, else the values."""
    for result in results:
        if result.kind != "value":
            text = f"{result.error}: {result.message}".strip(": ")
            return f"{result.kind} {text}".strip()[:200]
    return "returned " + ", ".join(shown(result.value, 100) for result in results[:3])
