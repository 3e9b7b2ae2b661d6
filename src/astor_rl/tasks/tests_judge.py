"""Runs written tests on the correct code and on wrong versions of it, and weighs what they found.

The rules are told in `unit_test_generation`.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from astor_rl.sandbox.api import (
    Coverage,
    Limits,
    Outcome,
    SandboxPool,
    TargetResult,
    TestsJob,
)
from astor_rl.tasks.guard import guarded_async
from astor_rl.tasks.parsing import parse_python
from astor_rl.types import Example, Invalid

_IDLE_TESTS = "def test_nothing():\n    pass\n"
_NO_CHECK = "no assertion depends on a call of the code"
_ASSERTION_ERRORS = ("AssertionError", "Failed")
_METRICS = {"line": "line_coverage", "branch": "branch_coverage", "mutant": "mutation_score"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tests are worth: `outcome` in [0, 1], metrics by name, and why, in one line."""

    outcome: float
    metrics: Mapping[str, float]
    reason: str


class MutationJudge:
    """Judges tests, in two jobs: the correct code alone, then all versions in secret order.

    The first job keeps tests that are wrong from being run on mutants, some of which loop until
    their deadline. It tells the tests nothing: in the second, the correct code is among the
    mutants, twice, and must pass again.

    Every version runs as `ast.unparse` writes it: mutants may come from there while the correct
    code is its author's text, and tests shall not tell them by line numbers or spacing.

    Args:
        kind: the task's, for the log.
        sandbox: where everything runs.
        weights: of `line`, `branch` and `mutant`, >= 0.
        timeout_s: deadline of the tests on one version, seconds.
    """

    def __init__(
        self, kind: str, sandbox: SandboxPool, weights: Mapping[str, float], timeout_s: float
    ) -> None:
        self._kind = kind
        self._sandbox = sandbox
        self._weights = dict(weights)
        self._timeout_s = timeout_s
        self._at_import: dict[str, Coverage | Invalid] = {}

    async def prepare(self, examples: Iterable[Example]) -> None:
        """Measure, once an example, what importing its code reaches."""
        new = {e.key: e for e in examples if e.key not in self._at_import}
        jobs = (
            guarded_async(self._kind, self._measured_at_import(example)) for example in new.values()
        )
        for key, outcome in zip(new, await asyncio.gather(*jobs), strict=True):
            self._at_import[key] = (
                outcome if isinstance(outcome, Invalid) else _coverage_at_import(outcome)
            )

    async def _measured_at_import(self, example: Example) -> Outcome:
        job = self._job(example, _IDLE_TESTS, [example.fields["code"]], measured=True)
        return await self._sandbox.submit(job)

    async def judge(
        self, example: Example, tests: str, fault: str = "", *, checks: bool = True
    ) -> Verdict | Invalid:
        """The verdict on tests of a prepared example; Invalid if the sandbox or the row failed.

        Args:
            example: what they test.
            tests: their source.
            fault: why they must not be run, if so.
            checks: whether, as far as their source shows, an assertion depends on the code.
        """
        at_import = self._at_import[example.key]
        if isinstance(at_import, Invalid):
            return at_import
        judged = fault or await self._run(example, tests, at_import, checks)
        return _zero(example, at_import, judged) if isinstance(judged, str) else judged

    async def _run(
        self, example: Example, tests: str, at_import: Coverage, checks: bool
    ) -> Verdict | str | Invalid:
        """The verdict past the gate, or why they don't get past it."""
        alone = self._job(example, tests, [example.fields["code"]] * 2, measured=True)
        correct = _results(await self._sandbox.submit(alone), alone)
        if not isinstance(correct, tuple):
            return correct
        if fault := _gate(correct):
            return fault
        coverage = correct[0].coverage
        if coverage is None or not _is_possible(coverage, at_import):
            return "malformed: coverage that isn't of this code"
        if coverage.lines_hit <= at_import.lines_hit < coverage.lines:
            return "reaches nothing of the code"
        killed = await self._killed(example, tests, correct[0], checks)
        return self._weighed(coverage, killed) if isinstance(killed, dict) else killed

    async def _killed(
        self, example: Example, tests: str, expected: TargetResult, checks: bool
    ) -> dict[str, list[bool]] | str | Invalid:
        """Who was killed, by role, or why the tests are worth nothing after all."""
        versions = _versions(example, tests)
        killed: dict[str, list[bool]] = {"mutant": [], "buggy": []}
        asserted = False
        if not any(role in killed for role, _ in versions):
            return killed if checks else _NO_CHECK
        job = self._job(example, tests, [source for _, source in versions])
        results = _results(await self._sandbox.submit(job), job)
        if not isinstance(results, tuple):
            return results
        for (role, _), result in zip(versions, results, strict=True):
            passes = _passes(result) and set(result.passed) == set(expected.passed)
            asserted |= role == "mutant" and not passes and _by_assertion(result)
            if role in killed:
                killed[role].append(not passes)
            elif not passes:
                return f"passes and fails on the same code: {result.message}"
        if asserted:
            return killed
        if not all(killed["mutant"]):
            return f"no assertion fails on any of {len(killed['mutant'])} mutants"
        # There are none, or all crash before an assertion could fail: only the source can tell.
        return killed if checks else _NO_CHECK

    def _weighed(self, coverage: Coverage, killed: Mapping[str, Sequence[bool]]) -> Verdict:
        parts = {"line": coverage.lines_hit / coverage.lines}
        if coverage.branches:
            parts["branch"] = coverage.branches_hit / coverage.branches
        mutants = killed["mutant"]
        if mutants:
            parts["mutant"] = sum(mutants) / len(mutants)
        metrics = {_METRICS[part]: value for part, value in parts.items()}
        metrics["passes_on_correct"] = 1.0
        if killed["buggy"]:
            metrics["detects_bug"] = float(killed["buggy"][0])
        reason = (
            f"{coverage.lines_hit} of {coverage.lines} lines, "
            f"{coverage.branches_hit} of {coverage.branches} branches, "
            f"{sum(mutants)} of {len(mutants)} mutants killed"
        )
        return Verdict(self._mean(parts), metrics, reason)

    def _mean(self, parts: Mapping[str, float]) -> float:
        weights = {part: self._weights[part] for part in parts}
        if not any(weights.values()):  # all the weight is on parts that this code doesn't have
            weights = dict.fromkeys(parts, 1.0)
        total = sum(weights.values())
        return min(1.0, sum(weights[part] * value for part, value in parts.items()) / total)

    def _job(
        self, example: Example, tests: str, targets: Sequence[str], *, measured: bool = False
    ) -> TestsJob:
        # Room for every target to use up its own deadline, so that only those decide.
        seconds = self._timeout_s * (len(targets) + 1)
        return TestsJob(
            module=example.fields["module"],
            targets=tuple(map(_unparsed, targets)),
            tests=tests,
            coverage_of=(0,) if measured else (),
            support=example.fields["support_files"],
            per_target_s=self._timeout_s,
            limits=Limits(cpu_s=seconds, wall_s=4 * seconds),
        )


def _zero(example: Example, at_import: Coverage, reason: str) -> Verdict:
    """The verdict on tests that don't get past the gate."""
    metrics = {"line_coverage": 0.0, "passes_on_correct": 0.0}
    if at_import.branches:
        metrics["branch_coverage"] = 0.0
    if example.fields["mutants"]:
        metrics["mutation_score"] = 0.0
    if example.fields["buggy"]:
        metrics["detects_bug"] = 0.0
    return Verdict(0.0, metrics, reason[:200])


def _versions(example: Example, tests: str) -> list[tuple[str, str]]:
    """(role, source) of every version, ordered by a hash that the tests can't know."""
    row = example.fields
    versions = [("correct", row["code"])] * 2 + [("mutant", code) for code in row["mutants"]]
    if row["buggy"]:
        versions.append(("buggy", row["buggy"]))

    def place(index: int) -> bytes:
        text = f"{example.key}\0{index}\0{tests}"
        return blake2b(text.encode("utf-8", "surrogatepass")).digest()

    return [versions[index] for index in sorted(range(len(versions)), key=place)]


def _results(outcome: Outcome, job: TestsJob) -> tuple[TargetResult, ...] | str | Invalid:
    """One result for each target; or why the tests could not be run; or that it was our fault."""
    statuses = [outcome.status, *(target.status for target in outcome.targets)]
    if "infra_error" in statuses:
        return Invalid(f"sandbox: {outcome.message or 'infrastructure error'}")
    if "malformed" in statuses:
        return f"malformed: {outcome.message or 'bytes that are not a result'}"
    if outcome.status != "ok" or len(outcome.targets) != len(job.targets):
        return f"{outcome.status}: {outcome.message}"
    return outcome.targets


def _gate(correct: Sequence[TargetResult]) -> str:
    """Why tests of the correct code are worth nothing, or nothing if they are."""
    failing = [result for result in correct if not _passes(result)]
    if failing:
        what = "fails" if failing[0].status == "ok" else failing[0].status
        if what == "fails" and len(failing) < len(correct):
            return f"passes and fails on the same code: {failing[0].message}"
        return f"{what} on the correct code: {failing[0].message}"
    if not correct[0].passed:
        return "no test was collected"
    if not all(result.assertions for result in correct):
        return "no assertion was evaluated"
    return ""


def _is_possible(found: Coverage, at_import: Coverage) -> bool:
    """Whether counts that come from where the tests ran can be of the code measured before."""
    return (
        (found.lines, found.branches) == (at_import.lines, at_import.branches)
        and 0 <= found.lines_hit <= found.lines
        and 0 <= found.branches_hit <= found.branches
    )


def _by_assertion(result: TargetResult) -> bool:
    """Whether the first test that failed did so by an assertion, and not by a crash."""
    if result.status != "ok" or not result.failed:
        return False
    # `Failed` is what `pytest.raises` and `pytest.fail` raise.
    return result.message.removeprefix(f"{result.failed[0]}: ").startswith(_ASSERTION_ERRORS)


@lru_cache(maxsize=4096)
def _unparsed(source: str) -> str:
    """The source in one style; as it is if it doesn't parse (a mutant may not)."""
    tree = parse_python(source)
    return source if tree is None else ast.unparse(tree) + "\n"


def _passes(result: TargetResult) -> bool:
    return result.status == "ok" and not result.failed


def _coverage_at_import(outcome: Outcome) -> Coverage | Invalid:
    """What importing the code reaches; Invalid if it can't be imported."""
    target = outcome.targets[0] if outcome.targets else None
    if outcome.status != "ok" or target is None or target.status != "ok":
        message = (target.message if target else "") or outcome.message or outcome.status
        return Invalid(f"the code under test can't be measured: {message}")
    if target.coverage is None or not target.coverage.lines:
        return Invalid("the code under test has no lines to cover")
    if not _is_possible(target.coverage, target.coverage):
        return Invalid("the code under test can't be measured: impossible counts")
    return target.coverage
