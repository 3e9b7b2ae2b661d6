"""Arms set against each other: gains with intervals, ranks, and what judging adds to them.

Everything is paired by seed: with one seed, arms start from the same weights, are judged on the
same examples and draw from the same seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from astor_rl.compare.curves import common_looks
from astor_rl.compare.entrants import Entrant, list_entrants
from astor_rl.compare.families import Versus, headline, shared_seeds, versus
from astor_rl.compare.intervals import Interval, kendalls_w, mean_interval, ranks
from astor_rl.compare.results import Result, read_results
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.units import Unit


@dataclass(frozen=True, slots=True)
class Analysis:
    """A comparison's findings.

    Attributes:
        reference: the arm that gains are of; None before it has a result.
        tasks: names, in the run file's order.
        entrants: everybody with a result.
        before: test scores by task before RL, over all seeds.
        gains: by entrant, the reference against it alone.
        headline: against the best of each family (`families.headline`).
        own: by specialists' arm and task, the reference's score minus its own specialist's.
        placed: rank counts by entrant; `w` is Kendall's.
        looks: the steps at which every run was looked at.
    """

    reference: Entrant | None
    tasks: tuple[str, ...]
    entrants: tuple[Entrant, ...]
    before: Mapping[str, Interval]
    gains: Mapping[str, Versus]
    headline: Mapping[str, Versus]
    own: Mapping[str, Mapping[str, Interval]]
    ranking: Ranking | None
    looks: tuple[int, ...]

    @property
    def steps(self) -> int:
        """The last step at which every run was looked at."""
        return max(self.looks, default=0)


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
        headline=headline(reference, others) if reference else {},
        own=_own(reference, others) if reference else {},
        ranking=_ranking(reference, entrants) if reference else None,
        looks=common_looks(entrants),
    )


def _before(entrants: Sequence[Entrant], tasks: Sequence[str]) -> dict[str, Interval]:
    by_seed = {seed: r.before for entrant in entrants for seed, r in entrant.results.items()}
    return {task: mean_interval([scores[task] for scores in by_seed.values()]) for task in tasks}


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


def over_seeds(entrant: Entrant, value: Callable[[Result], float]) -> Interval:
    """A figure of an entrant's results."""
    return mean_interval([value(result) for result in entrant.results.values()])


def judging_error(one: Entrant, other: Entrant) -> float | None:
    """Standard error of the mean difference of test scores that comes from the choice of examples.

    Of those that all seeds answer, which is all of them with `same_examples`: so the mean
    difference over seeds by example, how that varies within a task, averaged over tasks. Intervals
    over seeds don't hold it. The part of it that is noise of samples (a seed's answers to an
    example differ) is in both.
    """
    seeds = shared_seeds(one, other)
    if not seeds:
        return None
    total, tasks = 0.0, list(one.results[seeds[0]].examples)
    for task in tasks:
        pairs = [(one.results[s].examples[task], other.results[s].examples[task]) for s in seeds]
        keys = set.intersection(*(set(outcomes) for pair in pairs for outcomes in pair))
        if len(keys) < 2:
            return None
        gaps = [
            math.fsum(ours[key] - theirs[key] for ours, theirs in pairs) for key in sorted(keys)
        ]
        total += statistics.variance(gaps) / len(gaps)
    return math.sqrt(total) / len(seeds) / len(tasks)
