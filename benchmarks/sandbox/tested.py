"""What a mutant and a measurement of coverage cost: `TestsJob` on one worker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from astor_rl.sandbox.api import Outcome, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from benchmarks.common import summary
from benchmarks.sandbox.jobs import LIMITS, MutantSet

_COPIES: Final = 8
"""Targets of a coverage job: copies of the code, so that what measuring adds stands out."""


def measure(sets: Sequence[MutantSet], workers: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a mutant and a covered target.

    Marginal figures are one worker's: what one more costs a job that runs anyway, from runs of
    the same sets with and without, in turns.
    """
    with ProcessPool(1) as one, ProcessPool(workers) as all_:
        kept = _finishing(all_, sets)
        mutants = sum(len(each.mutants) for each in kept)
        alone = [_job(each) for each in kept]
        mutated = [_job(each, each.mutants) for each in kept]
        copies = [(each.code,) * (_COPIES - 1) for each in kept]
        plain = [_job(each, more) for each, more in zip(kept, copies, strict=True)]
        covered = [
            _job(each, more, coverage_of=tuple(range(_COPIES)))
            for each, more in zip(kept, copies, strict=True)
        ]
        list(one.map(alone[:2]))
        times = [
            [_timed(one, jobs) for jobs in (alone, mutated, plain, covered)]
            + [_timed(all_, mutated)]
            for _ in range(rounds)
        ]
    return {
        "sets": len(kept),
        "mutants": mutants,
        "left_out": len(sets) - len(kept),
        "ms_per_mutant": summary([1e3 * (b - a) / mutants for a, b, *_ in times]),
        "ms_per_mutant_whole_jobs": summary([1e3 * b / mutants for _, b, *_ in times]),
        "ms_per_mutant_all_cores": summary([1e3 * every / mutants for *_, every in times]),
        "ms_per_set_without_mutants": summary([1e3 * a / len(kept) for a, *_ in times]),
        "ms_per_coverage_call": summary(
            [1e3 * (d - c) / (_COPIES * len(kept)) for _, _, c, d, _ in times]
        ),
        "ms_per_target_unmeasured": summary(
            [1e3 * (c - a) / ((_COPIES - 1) * len(kept)) for a, _, c, *_ in times]
        ),
    }


def _job(each: MutantSet, more: Iterable[str] = (), coverage_of: tuple[int, ...] = ()) -> TestsJob:
    return TestsJob(
        each.module, (each.code, *more), each.tests, coverage_of=coverage_of, limits=LIMITS
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
