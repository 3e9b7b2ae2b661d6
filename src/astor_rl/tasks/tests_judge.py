"""Runs written tests on the correct code and on wrong versions of it, and weighs what they found.

The rules are told in `unit_test_generation`.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b

from astor_rl.sandbox.api import (
    CallJob,
    Coverage,
    Limits,
    Outcome,
    SandboxPool,
    TargetResult,
    TestsJob,
)
from astor_rl.tasks.guard import guarded_async
from astor_rl.tasks.parsing import parse_python
from astor_rl.tasks.tests_preview import plain_tests
from astor_rl.types import Example, Invalid

_IDLE_TESTS = "def test_nothing():\n    pass\n"
_UNSTABLE = "passes and fails on the same code"
_NO_CHECK = "no assertion depends on a call of the code"
_ASSERTION_ERRORS = ("AssertionError", "Failed")
_METRICS = {"line": "line_coverage", "branch": "branch_coverage", "mutant": "mutation_score"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What tests are worth: `outcome` in [0, 1], metrics by name, and why, in one line."""

    outcome: float
    metrics: Mapping[str, float]
    reason: str


_Version = tuple[str, str]
"""Role and source."""
_Found = tuple[tuple[TargetResult, ...], tuple[TargetResult, ...]]
"""Results of the correct code, the measured one first, and of all versions, in their order."""


@dataclass(frozen=True, slots=True)
class Way:
    """How an example's tests are run.

    Attributes:
        at_import: what importing the code reaches.
        shared: tests and code share a process.
    """

    at_import: Coverage
    shared: bool


class MutationJudge:
    """Judges tests by what they do on the correct code and on all other versions.

    The correct code runs twice among the others and must pass both times. Where tests and versions
    have processes of their own, one job does it all: what the tests ask of the correct code is
    asked of all versions, and a version is killed if it answers otherwise *and* the tests fail on
    it. In one process it takes two jobs: the correct code alone, so that tests that are wrong are
    not run on mutants, some of which loop until their deadline; then all versions in secret order.

    Every version runs as `ast.unparse` writes it: mutants may come from there while the correct
    code is its author's text, and tests shall not tell them by line numbers or spacing.

    Args:
        kind: the task's, for the log.
        sandbox: where everything runs.
        weights: of `line`, `branch` and `mutant`, >= 0.
        timeout_s: deadline of the tests on one version, seconds.
        allow_shared: whether rows whose reference tests need it are run in one process.
    """

    def __init__(
        self,
        kind: str,
        sandbox: SandboxPool,
        weights: Mapping[str, float],
        timeout_s: float,
        *,
        allow_shared: bool = False,
    ) -> None:
        self._kind = kind
        self._sandbox = sandbox
        self._weights = dict(weights)
        self._timeout_s = timeout_s
        self._allow_shared = allow_shared
        self._ways: dict[str, Way | Invalid] = {}

    async def prepare(
        self, examples: Iterable[Example], reference: Callable[[Example], str]
    ) -> None:
        """Find out, once an example, what importing its code reaches, and how its tests can run.

        Args:
            examples: which ones.
            reference: the tests that are known to be right.
        """
        new = {e.key: e for e in examples if e.key not in self._ways}
        ways = (
            guarded_async(self._kind, self._way(example, reference(example)))
            for example in new.values()
        )
        self._ways |= zip(new, await asyncio.gather(*ways), strict=True)

    async def _way(self, example: Example, reference: str) -> Way | Invalid:
        code = [example.fields["code"]]
        idle = self._job(example, _IDLE_TESTS, code, measured=True)
        alone = self._job(example, reference, code)
        imported, apart = await asyncio.gather(
            self._sandbox.submit(idle), self._sandbox.submit(alone)
        )
        at_import = _coverage_at_import(imported)
        if isinstance(at_import, Invalid):
            return at_import
        fault = _fault(apart, alone)
        if isinstance(fault, Invalid) or not fault:
            return fault or Way(at_import, shared=False)
        together = replace(alone, shared_process=True)
        if _fault(await self._sandbox.submit(together), together):  # wrong in any case
            return Way(at_import, shared=False)
        if self._allow_shared:
            return Way(at_import, shared=True)
        return Invalid(
            f"{example.origin}: the reference tests fail when they have a process of their own "
            f"({fault}); the option allow_shared_process = true runs them in the code's"
        )

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
        way = self._ways[example.key]
        if isinstance(way, Invalid):
            return way
        judged = fault or await self._run(example, tests, way, checks)
        if isinstance(judged, Invalid):
            return judged
        if isinstance(judged, str):
            judged = _zero(example, way.at_import, judged, passes=False)
        return replace(judged, metrics={**judged.metrics, "unforgeable": float(not way.shared)})

    async def _run(
        self, example: Example, tests: str, way: Way, checks: bool
    ) -> Verdict | str | Invalid:
        """The verdict past the gate, or why they don't get past it."""
        versions = _versions(example, tests)
        run = self._together if way.shared else self._apart
        results = await run(example, tests, versions)
        if not isinstance(results, tuple):
            return results
        correct, found = results
        if fault := _gate(correct):
            return fault
        coverage = correct[0].coverage
        if coverage is None or not _is_possible(coverage, way.at_import):
            return "malformed: coverage that isn't of this code"
        if coverage.lines_hit <= way.at_import.lines_hit < coverage.lines:
            return _zero(example, way.at_import, "reaches nothing of the code", passes=True)
        killed = _killed(list(zip(versions, found, strict=False)), correct[0], way.shared, checks)
        if isinstance(killed, str):
            return _zero(example, way.at_import, killed, passes=not killed.startswith(_UNSTABLE))
        return self._weighed(coverage, killed)

    async def _apart(
        self, example: Example, tests: str, versions: Sequence[_Version]
    ) -> _Found | str | Invalid:
        """The tests on all versions, in one job that compares them with the first correct one."""
        if refuted := await self._refuted(example, tests):
            return f"fails on the correct code: {refuted}"
        places = [place for place, (role, _) in enumerate(versions) if role == "correct"]
        job = self._job(example, tests, [source for _, source in versions])
        job = replace(job, reference=places[0], coverage_of=(places[0],))
        results = _results(await self._sandbox.submit(job), job)
        if not isinstance(results, tuple):
            return results
        return tuple(results[place] for place in places), results

    async def _refuted(self, example: Example, tests: str) -> str:
        """Why plain tests fail on the correct code, if one short job is enough to know."""
        row = example.fields
        plain = plain_tests(tests, row["module"], row["entry_point"])
        if plain is None or row["support_files"]:
            return ""
        limits = Limits(cpu_s=self._timeout_s, wall_s=4 * self._timeout_s)
        job = CallJob(_unparsed(row["code"]), plain.calls, limits=limits)
        outcome = await self._sandbox.submit(job)
        return plain.refuted(outcome.calls) if outcome.status == "ok" else ""

    async def _together(
        self, example: Example, tests: str, versions: Sequence[_Version]
    ) -> _Found | str | Invalid:
        """The tests on the correct code, and if they pass on all versions, in one process each."""
        alone = self._job(example, tests, [example.fields["code"]] * 2, measured=True)
        alone = replace(alone, shared_process=True)
        correct = _results(await self._sandbox.submit(alone), alone)
        if not isinstance(correct, tuple) or _gate(correct) or len(versions) == len(correct):
            return (correct, ()) if isinstance(correct, tuple) else correct
        job = self._job(example, tests, [source for _, source in versions])
        job = replace(job, shared_process=True)
        results = _results(await self._sandbox.submit(job), job)
        return (correct, results) if isinstance(results, tuple) else results

    def _weighed(self, coverage: Coverage, killed: Mapping[str, Sequence[bool]]) -> Verdict:
        parts = {"line": coverage.lines_hit / coverage.lines}
        if coverage.branches:
            parts["branch"] = coverage.branches_hit / coverage.branches
        mutants = killed["mutant"]
        if mutants:
            parts["mutant"] = sum(mutants) / len(mutants)
        metrics = {_METRICS[part]: value for part, value in parts.items()}
        metrics["passes"] = metrics["passes_on_correct"] = 1.0
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


def _fault(outcome: Outcome, job: TestsJob) -> str | Invalid:
    """Why tests fail on the correct code, empty if they don't."""
    results = _results(outcome, job)
    return _gate(results) if isinstance(results, tuple) else results


def _killed(
    found: Sequence[tuple[_Version, TargetResult]],
    expected: TargetResult,
    shared: bool,
    checks: bool,
) -> dict[str, list[bool]] | str:
    """Who was killed, by role, or why the tests are worth nothing after all."""
    killed: dict[str, list[bool]] = {"mutant": [], "buggy": []}
    asserted = False
    for (role, _), result in found:
        passes = _passes(result) and set(result.passed) == set(expected.passed)
        if role in killed:
            killed[role].append(not passes and (shared or result.differs))
            asserted |= role == "mutant" and killed[role][-1] and _by_assertion(result)
        elif not passes:
            return f"{_UNSTABLE}: {result.message}"
    if asserted:
        return killed
    if not all(killed["mutant"]):
        return f"no assertion fails on any of {len(killed['mutant'])} mutants"
    # There are none, or all crash before an assertion could fail: only the source can tell.
    return killed if checks else _NO_CHECK


def _zero(example: Example, at_import: Coverage, reason: str, *, passes: bool) -> Verdict:
    """The verdict on tests that don't get past the gate, though they may pass."""
    metrics = {"line_coverage": 0.0, "passes": float(passes), "passes_on_correct": 0.0}
    if at_import.branches:
        metrics["branch_coverage"] = 0.0
    if example.fields["mutants"]:
        metrics["mutation_score"] = 0.0
    if example.fields["buggy"]:
        metrics["detects_bug"] = 0.0
    return Verdict(0.0, metrics, reason[:200])


def _versions(example: Example, tests: str) -> list[_Version]:
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
            return f"{_UNSTABLE}: {failing[0].message}"
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
