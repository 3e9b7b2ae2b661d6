"""Interleaved rounds: whatever else the machine does falls on everybody alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.common import (
    Summary,
    differences,
    percentile,
    ratios,
    summary,
    tell,
    tree_cpu_s,
)
from benchmarks.sandbox.contenders import Contender, Turn
from benchmarks.sandbox.jobs import Case

_PERCENTILES: Final = (50, 90, 99)
_HEAVY_S: Final = 0.02
_TRIES: Final = 5


@dataclass
class Record:
    """One contender's turns.

    Attributes:
        ms: wall milliseconds a job, one entry for each turn.
        cpu_ms: CPU milliseconds a job of the benchmark's whole process tree, the same; empty where
            the kernel doesn't hand it up.
        by_round: wall milliseconds a job, one list for each round.
        latencies: milliseconds from asking to the verdict, of each job where it is seen.
    """

    ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    by_round: list[list[float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def add(self, turn: Turn, cpu_s: float | None) -> None:
        """Note one turn."""
        jobs = len(turn.verdicts)
        self.ms.append(1e3 * turn.seconds / jobs)
        if cpu_s is not None:
            self.cpu_ms.append(1e3 * cpu_s / jobs)
        self.by_round[-1].append(self.ms[-1])
        self.latencies += [1e3 * seconds for seconds in turn.latencies]

    def told(self) -> dict[str, Any]:
        """For the result."""
        found: dict[str, Any] = {
            "jobs_per_s": summary([1e3 / ms for ms in self.ms]),
            "ms_per_job": summary(self.ms),
            "cpu_ms_per_job": summary(self.cpu_ms) if self.cpu_ms else None,
        }
        if self.latencies:
            found["latency_ms"] = latency(self.latencies)
        return found


def latency(values: Sequence[float]) -> dict[str, float]:
    """Percentiles of latencies."""
    return {f"p{q}": percentile(values, q) for q in _PERCENTILES}


def light(contender: Contender, cases: Sequence[Case]) -> list[Case]:
    """The cases of at most 20 ms: what runs longer tells about the solution, not who runs it.

    MBPP has a few references that loop for a second; one of them takes longer than all the others.
    """

    def seconds(case: Case) -> float:
        # The best of a few: a moment when the machine is busy makes no case heavy.
        return min(contender.run([case]).seconds for _ in range(_TRIES))

    return [case for case in cases if seconds(case) <= _HEAVY_S]


def agreed(contenders: Sequence[Contender], cases: Sequence[Case]) -> list[Case]:
    """The cases that everybody judges rightly, both the right solution and the wrong one."""
    kept = list(cases)
    for contender in contenders:
        right = contender.run(kept).verdicts
        wrong = contender.run(kept, wrong=True).verdicts
        kept = [
            case
            for case, passed, fooled in zip(kept, right, wrong, strict=True)
            if passed and not fooled
        ]
        if not kept:
            raise RuntimeError(f"{contender.name} judges no case rightly: not a contender")
    return kept


def race(
    fast: tuple[Contender, Contender],
    slow: Sequence[Contender],
    cases: Sequence[Case],
    rounds: int,
) -> dict[str, Record]:
    """Run everybody on the same cases, in turns.

    The fast pair goes once before each of the slow ones and once at the end, its order reversed
    each time: their difference is small, and their turns are short.

    Raises:
        RuntimeError: somebody's verdicts were wrong.
    """
    records = {contender.name: Record() for contender in (*fast, *slow)}
    for number in range(rounds):
        tell(f"  {len(cases)} cases, round {number + 1} of {rounds}")
        for record in records.values():
            record.by_round.append([])
        for other in (*slow, None):
            for contender in fast:
                _turn(contender, cases, records)
            fast = fast[1], fast[0]
            if other is not None:
                _turn(other, cases, records)
    return records


def _turn(contender: Contender, cases: Sequence[Case], records: dict[str, Record]) -> None:
    before = tree_cpu_s()
    turn = contender.run(cases)
    cpu_s = tree_cpu_s() - before if contender.cpu_is_seen else None
    records[contender.name].add(turn, cpu_s)
    if not all(turn.verdicts):
        failed = [c.name for c, passed in zip(cases, turn.verdicts, strict=True) if not passed]
        raise RuntimeError(f"{contender.name} failed right solutions: {', '.join(failed[:3])}")


def times_faster(records: dict[str, Record], name: str, than: str) -> Summary | None:
    """How often one contender's time fits into another's, by rounds; None without the other."""
    if than not in records:
        return None
    return ratios(_rounds(records[than]), _rounds(records[name]))


def slower_by_ms(records: dict[str, Record], name: str, than: str) -> Summary:
    """Wall milliseconds a job that one contender needs beyond another, by turns."""
    return differences(records[name].ms, records[than].ms)


def _rounds(record: Record) -> list[float]:
    return [summary(values)["median"] for values in record.by_round]
