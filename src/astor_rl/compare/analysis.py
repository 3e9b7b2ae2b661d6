"""Arms set against each other: gains with intervals, ranks, tokens to a score, forgetting.

Everything is paired by seed: with one seed, arms start from the same weights, are judged on the
same examples and draw from the same seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astor_rl.compare.entrants import Entrant, list_entrants
from astor_rl.compare.intervals import (
    LEVEL,
    Interval,
    against_best,
    gain_interval,
    kendalls_w,
    mean_interval,
    ranks,
    sidak,
)
from astor_rl.compare.results import Point, Result, mean, read_results
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.units import Unit


@dataclass(frozen=True, slots=True)
class Versus:
    """The reference against one arm, or against the best of several.

    Attributes:
        arms: those it is against.
        gain: percent by which the reference's mean test score is above; None where no ratio is
            defined, or there is no seed that both have.
        left_out: arms of the same kind with fewer seeds, which are not part of it.
    """

    arms: tuple[str, ...]
    gain: Interval | None
    left_out: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: the interval with what it is about."""
        found = {"mean": None, "low": None, "high": None, "seeds": 0}
        return {
            **(self.gain.as_dict() if self.gain else found),
            "against": list(self.arms),
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """A comparison's findings.

    Attributes:
        reference: the arm that gains are of; None before it has a result.
        tasks: names, in the run file's order.
        entrants: everybody with a result.
        before: test scores by task before RL, over all seeds.
        gains: by entrant, the reference against it alone.
        headline: `joint`, `curriculum`, `merging`, `best_specialist`, `best_scheduler`.
        own: by specialists' arm and task, the reference's score minus its own specialist's.
        placed: rank counts by entrant; `w` is Kendall's.
        steps: the last step at which every run was looked at.
    """

    reference: Entrant | None
    tasks: tuple[str, ...]
    entrants: tuple[Entrant, ...]
    before: Mapping[str, Interval]
    gains: Mapping[str, Versus]
    headline: Mapping[str, Versus]
    own: Mapping[str, Mapping[str, Interval]]
    ranking: Ranking | None
    steps: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """How stable the order of arms is over seeds.

    Attributes:
        seeds: those that all of the ranked arms have.
        counts: by arm, how often it was 1st, 2nd, ...; ties share their mean rank, rounded up.
        average: mean rank.
        w: Kendall's W; None where it says nothing.
    """

    seeds: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]]
    average: Mapping[str, float]
    w: float | None


def analyse(comparison: CompareConfig, units: Sequence[Unit]) -> Analysis:
    """Set the finished units of a comparison side by side. Raises `DataError`."""
    entrants = list_entrants(comparison, units, read_results(units))
    reference = next((e for e in entrants if e.name == comparison.reference), None)
    results = [result for entrant in entrants for result in entrant.results.values()]
    tasks = tuple(results[0].test) if results else ()
    others = [entrant for entrant in entrants if entrant is not reference]
    return Analysis(
        reference=reference,
        tasks=tasks,
        entrants=tuple(entrants),
        before=_before(entrants, tasks),
        gains={e.name: versus(reference, [e]) for e in others} if reference else {},
        headline=_headline(reference, others) if reference else {},
        own=_own(reference, others) if reference else {},
        ranking=_ranking(reference, entrants) if reference else None,
        steps=_common_step(entrants),
    )


def _before(entrants: Sequence[Entrant], tasks: Sequence[str]) -> dict[str, Interval]:
    by_seed = {seed: r.before for entrant in entrants for seed, r in entrant.results.items()}
    return {task: mean_interval([scores[task] for scores in by_seed.values()]) for task in tasks}


def shared_seeds(one: Entrant, other: Entrant) -> list[int]:
    """Seeds that both have a result of, in order."""
    return sorted(one.results.keys() & other.results.keys())


def versus(reference: Entrant, others: Sequence[Entrant]) -> Versus:
    """The reference against one entrant, or simultaneously against the best of several.

    Of several, only those with the most seeds in common with the reference take part: an interval
    over a few seeds, at a level for many comparisons, would swallow all others.
    """
    most = max(len(shared_seeds(reference, other)) for other in others)
    family = [other for other in others if len(shared_seeds(reference, other)) == most]
    level = sidak(len(family)) if len(family) > 1 else LEVEL
    gains = [_gain(reference, other, level) for other in family]
    known = [gain for gain in gains if gain is not None]
    gain = None
    if known and len(known) == len(gains):
        gain = known[0] if len(known) == 1 else against_best(known)
    return Versus(
        tuple(other.name for other in family),
        gain,
        tuple(other.name for other in others if other not in family),
    )


def _gain(reference: Entrant, other: Entrant, level: float) -> Interval | None:
    seeds = shared_seeds(reference, other)
    return gain_interval(
        [reference.test(seed) for seed in seeds], [other.test(seed) for seed in seeds], level=level
    )


def _headline(reference: Entrant, others: Sequence[Entrant]) -> dict[str, Versus]:
    models = [entrant for entrant in others if entrant.kind != "specialist"]
    best = [entrant for entrant in models if entrant.role == "specialist"]
    full = [entrant for entrant in best if entrant.arm.budget == "full"]
    families = {
        "joint": [entrant for entrant in models if entrant.role == "joint"],
        "curriculum": [entrant for entrant in models if entrant.role == "curriculum"],
        "merging": [entrant for entrant in models if entrant.role == "merging"],
        "best_specialist": full or best,
        "best_scheduler": [e for e in models if e.role in {"joint", "curriculum", "scheduler"}],
    }
    return {name: versus(reference, family) for name, family in families.items() if family}


def _own(reference: Entrant, others: Sequence[Entrant]) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    for other in others:
        seeds = shared_seeds(reference, other)
        if other.task is not None and seeds:
            found.setdefault(other.arm.name, {})[other.task] = mean_interval(
                [
                    reference.results[seed].test[other.task] - other.results[seed].test[other.task]
                    for seed in seeds
                ]
            )
    return found


def _ranking(reference: Entrant, entrants: Sequence[Entrant]) -> Ranking | None:
    seeds = tuple(sorted(reference.results))
    ranked = [
        e
        for e in entrants
        if e.kind != "specialist" and e.results.keys() >= reference.results.keys()
    ]
    if len(ranked) < 2 or len(seeds) < 2:
        return None
    table = [ranks([entrant.test(seed) for entrant in ranked]) for seed in seeds]
    counts: dict[str, tuple[int, ...]] = {}
    for column, entrant in enumerate(ranked):
        places = [math.ceil(row[column]) for row in table]
        counts[entrant.name] = tuple(places.count(place + 1) for place in range(len(ranked)))
    average = {
        entrant.name: statistics.fmean(row[column] for row in table)
        for column, entrant in enumerate(ranked)
    }
    return Ranking(seeds, counts, average, kendalls_w(table))


def _common_step(entrants: Sequence[Entrant]) -> int:
    curves = [
        {point.step for point in result.curve}
        for entrant in entrants
        if entrant.kind == "run"
        for result in entrant.results.values()
    ]
    return max(set.intersection(*curves)) if curves else 0


def over_seeds(entrant: Entrant, value: Callable[[Result], float]) -> Interval:
    """A figure of an entrant's results."""
    return mean_interval([value(result) for result in entrant.results.values()])


def forgotten(result: Result, task: str) -> float:
    """Peak minus final validation score of a task; noise in the looks makes it too high."""
    return max(point.scores[task] for point in result.curve) - result.validation[task]


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
    """When an entrant reached the final validation score of Joint with the same seed.

    Attributes:
        times, seeds: in how many of how many seeds it did at all.
        median: tokens, seeds that never did counted as later than all; None when that is most.
    """

    times: int
    seeds: int
    median: float | None


def reached(entrant: Entrant, joint: Entrant) -> Reached | None:
    """See `Reached`; None where there is no curve or no seed in common."""
    seeds = shared_seeds(entrant, joint)
    if entrant.kind != "run" or not seeds:
        return None
    found = [
        tokens_to(entrant.results[seed].curve, mean(joint.results[seed].validation))
        for seed in seeds
    ]
    middle = statistics.median(math.inf if tokens is None else tokens for tokens in found)
    times = sum(tokens is not None for tokens in found)
    return Reached(times, len(seeds), middle if math.isfinite(middle) else None)


def judging_error(one: Entrant, other: Entrant) -> float | None:
    """Standard error of the mean difference of test scores that is due to the choice of examples.

    Of paired differences by example, within tasks, averaged over tasks and seeds as if each seed
    had examples of its own: how much of an interval over seeds is noise of judging.
    """
    total, seeds = 0.0, shared_seeds(one, other)
    for seed in seeds:
        ours, theirs = one.results[seed].examples, other.results[seed].examples
        for task, outcomes in ours.items():
            gaps = [outcomes[key] - theirs[task][key] for key in outcomes if key in theirs[task]]
            if len(gaps) < 2:
                return None
            total += statistics.variance(gaps) / len(gaps) / len(ours) ** 2
    return math.sqrt(total) / len(seeds) if seeds else None
