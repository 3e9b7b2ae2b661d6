"""What a mutant and a measurement of coverage cost: `TestsJob` on one worker.

All figures are what one more adds to a batch that runs anyway: the same sets with and without, in
turns, and the difference divided by how many more there were.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from astor_rl.sandbox.api import Outcome, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from benchmarks.common import summary
from benchmarks.sandbox.jobs import LIMITS, MutantSet

HEADLINES: Final = (
    "ms_per_mutant",
    "ms_per_mutant_told_apart",
    "ms_per_mutant_one_process",
    "ms_per_coverage_call",
    "ms_per_covered_target",
)
"""The figures to show first; see `measure`."""
_FEW, _EQUALS = 6, 32
"""Mutants of a set that answer as its code does. A set with any at all first runs its tests on one
to five of them (see `proxied_tests`): that is a set's cost and not a mutant's."""
_AGAIN: Final = 40
"""How often more the tests of a set run on the code, with and without coverage."""
_LOOP: Final = """
def test_again():
    for _ in range({times}):
        for name, thing in list(globals().items()):
            if name.startswith("test") and name != "test_again":
                thing()
"""


def measure(sets: Sequence[MutantSet], workers: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a mutant, a measured run of the tests, and a measured target.

    `ms_per_mutant`: a version that answers the recorded calls as the code does; all of a batch in
    one process, a timer for each. `ms_per_set_with_mutants`: what the first few of them add to a
    set, most of it runs of the tests that hide which version is the code.
    `ms_per_mutant_told_apart`: MBPP's own mutants, on nearly all of which the tests run once
    more, in a fresh process. `ms_per_mutant_one_process`: the same ones, with tests and code in
    one process. `ms_per_coverage_call`: what tracing adds to one run of a set's tests.
    `ms_per_covered_target`: what it adds to a job with one run, which includes finding the lines
    and branches of the code.
    """
    with ProcessPool(1) as one, ProcessPool(workers) as all_:
        kept = _finishing(all_, sets)
        batches = _batches(kept)
        for jobs in batches.values():
            list(one.map(jobs[:1]))
        turns = [{name: _timed(one, jobs) for name, jobs in batches.items()} for _ in range(rounds)]
        whole = [_timed(all_, batches["mutants"]) for _ in range(rounds)]
    mutants = sum(len(each.mutants) for each in kept)
    count = len(kept)

    def per(more: str, less: str, divisor: int) -> Mapping[str, float]:
        return summary([1e3 * (turn[more] - turn[less]) / divisor for turn in turns])

    calls = [
        (turn["covered again"] - turn["covered"]) - (turn["again"] - turn["code"]) for turn in turns
    ]
    return {
        "sets": count,
        "mutants": mutants,
        "left_out": len(sets) - count,
        "ms_per_mutant": per("equals", "few equals", (_EQUALS - _FEW) * count),
        "ms_per_set_with_mutants": per("few equals", "code", count),
        "ms_per_mutant_told_apart": per("mutants", "code", mutants),
        "ms_per_mutant_one_process": per("together mutants", "together", mutants),
        "ms_per_mutant_all_cores": summary([1e3 * seconds / mutants for seconds in whole]),
        "ms_per_set_without_mutants": summary([1e3 * turn["code"] / count for turn in turns]),
        "ms_per_coverage_call": summary([1e3 * seconds / (_AGAIN * count) for seconds in calls]),
        "ms_per_covered_target": per("covered", "code", count),
    }


def _batches(kept: Sequence[MutantSet]) -> dict[str, list[TestsJob]]:
    equals = [[f"{each.code}\n# {number}" for number in range(_EQUALS)] for each in kept]
    few = [versions[:_FEW] for versions in equals]
    return {
        "code": [_job(each) for each in kept],
        "few equals": [_job(each, more) for each, more in zip(kept, few, strict=True)],
        "equals": [_job(each, more) for each, more in zip(kept, equals, strict=True)],
        "mutants": [_job(each, each.mutants) for each in kept],
        "together": [_job(each, shared_process=True) for each in kept],
        "together mutants": [_job(each, each.mutants, shared_process=True) for each in kept],
        "covered": [_job(each, coverage_of=(0,)) for each in kept],
        "again": [_job(each, again=_AGAIN) for each in kept],
        "covered again": [_job(each, again=_AGAIN, coverage_of=(0,)) for each in kept],
    }


def _job(each: MutantSet, more: Iterable[str] = (), *, again: int = 0, **options: Any) -> TestsJob:
    """As unit tests are judged: everything is compared with the code, the first of the targets."""
    tests = each.tests + _LOOP.format(times=again)
    reference = None if options.get("shared_process") else 0
    return TestsJob(
        each.module, (each.code, *more), tests, limits=LIMITS, reference=reference, **options
    )


def _finishing(pool: ProcessPool, sets: Sequence[MutantSet]) -> list[MutantSet]:
    """The sets whose tests pass on the code, and end on every mutant: not deadlines are timed."""
    outcomes = pool.map([_job(each, each.mutants) for each in sets])
    return [each for each, outcome in zip(sets, outcomes, strict=True) if _ended(outcome)]


def _ended(outcome: Outcome) -> bool:
    return (
        outcome.status == "ok"
        and all(target.status == "ok" for target in outcome.targets)
        and not outcome.targets[0].failed
    )


def _timed(pool: ProcessPool, jobs: Sequence[TestsJob]) -> float:
    start = time.perf_counter()
    if any(outcome.status != "ok" for outcome in pool.map(jobs)):
        raise RuntimeError("a job with tests did not end")
    return time.perf_counter() - start
