"""What looks at the validation split say about the way: tokens to a score, forgetting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from astor_rl.compare.entrants import Entrant
from astor_rl.compare.families import shared_seeds
from astor_rl.compare.results import Point, Result, mean


def common_looks(entrants: Sequence[Entrant]) -> tuple[int, ...]:
    """The steps at which every run was looked at, in order."""
    looks = [
        {point.step for point in result.curve}
        for entrant in entrants
        if entrant.kind == "run"
        for result in entrant.results.values()
    ]
    return tuple(sorted(set.intersection(*looks))) if looks else ()


def forgotten(result: Result, task: str, looks: Collection[int]) -> float:
    """Peak minus final validation score of a task; noise in the looks makes it too high.

    The more looks, the higher a peak of noise: so all runs are given the same ones, and the last.

    Args:
        result: of a run.
        task: its name.
        looks: steps that every run was looked at (`common_looks`).
    """
    final = result.validation[task]
    return max([final, *(p.scores[task] for p in result.curve if p.step in looks)]) - final


def at_step(result: Result, step: int) -> float | None:
    """Mean validation score at a step; None where nobody looked."""
    return next((mean(point.scores) for point in result.curve if point.step == step), None)


def tokens_to(curve: Sequence[Point], target: float) -> float | None:
    """Tokens at which the mean validation score first reaches a target, between looks by a line.

    None when it never does: censored at the budget, not equal to it.
    """
    before: Point | None = None
    for point in curve:
        score = mean(point.scores)
        if score >= target:
            if before is None:
                return float(point.tokens)
            low = mean(before.scores)
            return before.tokens + (target - low) / (score - low) * (point.tokens - before.tokens)
        before = point
    return None


@dataclass(frozen=True, slots=True)
class Reached:
    """When an entrant first reached Joint's final validation score, the mean over Joint's seeds.

    One target for all, Joint's own runs included: with the same seed's score as target, Joint would
    reach it always, and not before its end.

    Attributes:
        times, seeds: in how many of how many seeds it did at all.
        median: tokens, seeds that never did counted as later than all; None when that is most.
        target: the score.
    """

    times: int
    seeds: int
    median: float | None
    target: float


def reached(entrant: Entrant, joint: Entrant) -> Reached | None:
    """See `Reached`; None where there is no curve or no seed in common."""
    seeds = shared_seeds(entrant, joint)
    if entrant.kind != "run" or not seeds:
        return None
    target = statistics.fmean(mean(result.validation) for result in joint.results.values())
    found = [tokens_to(entrant.results[seed].curve, target) for seed in seeds]
    middle = statistics.median(math.inf if tokens is None else tokens for tokens in found)
    times = sum(tokens is not None for tokens in found)
    return Reached(times, len(seeds), middle if math.isfinite(middle) else None, target)
