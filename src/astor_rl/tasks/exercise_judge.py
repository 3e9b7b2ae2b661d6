"""The verdict on a file: its tests in one process, the file in another.

Tests see stand-ins of what the solution defines (`sandbox.inside.proxy`), so that no solution can
touch what judges it. A few exercises' tests need more than a stand-in can be: they patch the
solution's insides, say. Which these are is found out with the reference, never with a solution; for
them the tests may be run in the solution's own process, where a hostile one can lie, if that is
allowed.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from astor_rl.sandbox.api import Limits, Outcome, SandboxPool, SuiteJob
from astor_rl.tasks.exercise_policy import forgery
from astor_rl.tasks.exercise_report import defined_tests, message_of, only, source_of
from astor_rl.tasks.exercise_tier import exercise_gold
from astor_rl.tasks.function_judge import Judgement, TestResult
from astor_rl.tasks.parsing import parse_python
from astor_rl.tasks.tests_source import is_assertion
from astor_rl.tasks.validation import time_limits
from astor_rl.types import Example, Invalid

_ALONE = 12
"""Failed tests that are run once more by themselves, to tell of them."""
_ALONE_LIMITS = time_limits(6.0)
"""What such a run has at most; a solution that never ends has had its time before."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an exercise's tests are run.

    Attributes:
        shared: in the solution's own process; else from another one.
        judging: if not shared, the methods by which the reference's objects had a say.
    """

    shared: bool
    judging: tuple[str, ...] = ()


class ExerciseJudge:
    """Runs test files against solutions.

    Args:
        sandbox: where they run.
        limits: of each process.
        allow_shared: whether tests that can't be run from another process may share the solution's.
    """

    def __init__(self, sandbox: SandboxPool, limits: Limits, *, allow_shared: bool = False) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._limits_alone = replace(
            limits,
            cpu_s=min(limits.cpu_s, _ALONE_LIMITS.cpu_s),
            wall_s=min(limits.wall_s, _ALONE_LIMITS.wall_s),
        )
        self._allow_shared = allow_shared
        self._ways: dict[str, Way | Invalid] = {}

    async def prepare(self, example: Example) -> Way | Invalid:
        """Find out, once, how an example's tests are run; `Invalid` if they can't be."""
        way = self._ways.get(example.key)
        if way is None:
            outcome = await self._run(example, exercise_gold(example.fields), None)
            if outcome.status == "infra_error":
                return Invalid(outcome.message or "the sandbox failed")
            way = self._ways[example.key] = self._way(example, outcome)
        return way

    def _way(self, example: Example, outcome: Outcome) -> Way | Invalid:
        if outcome.status == "ok" and not any(target.failed for target in outcome.targets):
            return Way(False, tuple(n for target in outcome.targets for n in target.judged))
        if self._allow_shared:
            return Way(True)
        return Invalid(
            f"{example.origin}: the reference fails its tests when they run in a process of their "
            f"own ({outcome.message or outcome.status}); the option allow_shared_process = true "
            "runs them in the solution's"
        )

    async def judge(self, example: Example, solution: str) -> Judgement | Invalid:
        """The verdict on a solution's file."""
        way = await self.prepare(example)
        if isinstance(way, Invalid):
            return way
        if way.shared and (tree := parse_python(solution)) and (found := forgery(tree)):
            return Judgement((), loads=False, fault=f"refused: {found}", unforgeable=False)
        outcome = await self._run(example, solution, way)
        if outcome.status == "infra_error":
            return Invalid(outcome.message or "the sandbox failed")
        return _judgement(example.fields["tests"], outcome, unforgeable=not way.shared)

    async def failures(self, example: Example, solution: str) -> str | Invalid:
        """Why a solution that failed does: each failed test with its message and its source.

        A run tells one message, that of its first failure; those of others, up to a number, are
        from runs of one test.

        Returns:
            `Invalid` when the solution could not be judged.
        """
        judgement = await self.judge(example, solution)
        if isinstance(judgement, Invalid):
            return judgement
        # Of a test's parameters the first that fail.
        failed: dict[str, str] = {}
        for result in judgement.results:
            if not result.passed:
                failed.setdefault(result.call.partition("[")[0], result.actual)
        if judgement.fault or not failed:
            return judgement.fault or "the tests failed, and pass when they are run again"
        tests: Mapping[str, str] = example.fields["tests"]
        (first, message), *others = failed.items()
        alone = [self._message(example, solution, name) for name, _ in others[:_ALONE]]
        told = [*await asyncio.gather(*alone), *["failed"] * (len(others) - len(alone))]
        share = f"{sum(not r.passed for r in judgement.results)} of {len(judgement.results)} fail."
        parts = [
            f"{name}\n{text}\n\n{source_of(tests, name)}".strip()
            for name, text in zip(failed, [message_of(tests, first, message), *told], strict=True)
        ]
        return "\n\n".join([share, *parts])

    async def _message(self, example: Example, solution: str, test: str) -> str:
        """What is said of a test of a solution that was judged before, by a run of it alone."""
        way = await self.prepare(example)
        tests = only(example.fields["tests"], test)
        if tests is None or isinstance(way, Invalid):
            return "failed"
        outcome = await self._run(example, solution, way, tests, self._limits_alone)
        if outcome.status != "ok" or not outcome.targets:
            return f"{outcome.status}: {outcome.message}"
        (target,) = outcome.targets
        if not target.failed:
            return "failed, but passes when it is run without the tests before it"
        return message_of(example.fields["tests"], test, target.message)

    async def _run(
        self,
        example: Example,
        solution: str,
        way: Way | None,
        tests: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Outcome:
        row = example.fields
        (name,) = row["files"]
        job = SuiteJob(
            {name: solution},
            row["tests"] if tests is None else tests,
            limits=limits or self._limits,
            support=row["support_files"],
            judging=way.judging if way else None,
            shared_process=way.shared if way else False,
        )
        return await self._sandbox.submit(job)


def _judgement(tests: Mapping[str, str], outcome: Outcome, *, unforgeable: bool) -> Judgement:
    if outcome.status != "ok" or not outcome.targets:
        detail = f": {outcome.message}" if outcome.message else ""
        fault = f"{outcome.status}{detail}"[:300]
        return Judgement((), loads=False, fault=fault, unforgeable=unforgeable)
    (target,) = outcome.targets
    if target.status != "ok":
        fault = f"{target.status}: {target.message}"[:300]
        return Judgement((), loads=False, fault=fault, unforgeable=unforgeable)
    # Tests that pass without the assertions that their source has were not what ran.
    least = _asserting_tests(tests) - len(target.failed)
    if target.assertions < least:
        fault = f"{target.assertions} assertions evaluated, at least {least} are in passed tests"
        return Judgement((), loads=True, fault=fault, unforgeable=unforgeable)
    passed = [TestResult(test, test, True, "passed", visible=False) for test in target.passed]
    failed = [
        TestResult(test, test, False, target.message if place == 0 else "failed", visible=False)
        for place, test in enumerate(target.failed)
    ]
    return Judgement((*failed, *passed), loads=True, unforgeable=unforgeable)


def _asserting_tests(tests: Mapping[str, str]) -> int:
    """How many tests assert, themselves or by a helper that they call on `self`."""
    found = {
        (path, scope, node.name)
        for path, source in tests.items()
        if path.endswith(".py")
        for scope, node in defined_tests(source)
        if _may_assert(node)
    }
    return len(found)


def _may_assert(test: ast.FunctionDef) -> bool:
    return any(
        is_assertion(node)
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "self"
        )
        for node in ast.walk(test)
    )
