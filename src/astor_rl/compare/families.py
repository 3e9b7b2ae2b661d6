"""The reference against one arm, or against the best of a family: specialists, schedulers, ..."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from astor_rl.compare.entrants import Entrant
from astor_rl.compare.intervals import LEVEL, Interval, against_best, gain_interval, sidak

_SCHEDULERS = frozenset(("joint", "curriculum", "scheduler"))


@dataclass(frozen=True, slots=True)
class Versus:
    """The reference against one arm, or against the best of several.

    Attributes:
        arms: those it is against.
        gain: percent by which the reference's mean test score is above; None where no ratio is
            defined (a score of 0), or there is no seed that both have.
        seeds: how many it is over.
        left_out: arms of the same family that are not part of it: fewer seeds, or no ratio.
    """

    arms: tuple[str, ...]
    gain: Interval | None
    seeds: int
    left_out: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: the interval with what it is about."""
        found = {"mean": None, "low": None, "high": None, "seeds": self.seeds}
        return {
            **(self.gain.as_dict() if self.gain else found),
            "against": list(self.arms),
            "left_out": list(self.left_out),
        }


def shared_seeds(one: Entrant, other: Entrant) -> list[int]:
    """Seeds that both have a result of, in order."""
    return sorted(one.results.keys() & other.results.keys())


def versus(
    reference: Entrant, others: Sequence[Entrant], *, of: Collection[int] | None = None
) -> Versus:
    """The reference against one entrant, or against the best of several.

    Of several, only those with the most seeds in common with the reference take part: the least of
    their intervals would else be that of whoever has the fewest seeds.

    Args:
        reference: whose gain it is.
        others: at least one.
        of: seeds to look at; None: all.
    """
    seeds = {
        other.name: [s for s in shared_seeds(reference, other) if of is None or s in of]
        for other in others
    }
    most = max(len(found) for found in seeds.values())
    family = [other for other in others if len(seeds[other.name]) == most]
    alone = {other.name: _gain(reference, other, seeds[other.name], LEVEL) for other in family}
    defined = [other for other in family if alone[other.name] is not None] or family
    level = sidak(len(defined))
    together = [_gain(reference, other, seeds[other.name], level) for other in defined]
    singly = [gain for other in defined if (gain := alone[other.name]) is not None]
    jointly = [gain for gain in together if gain is not None]
    names = tuple(other.name for other in defined)
    return Versus(
        names,
        against_best(singly, jointly) if singly else None,
        most,
        tuple(other.name for other in others if other.name not in names),
    )


def _gain(
    reference: Entrant, other: Entrant, seeds: Sequence[int], level: float
) -> Interval | None:
    return gain_interval(
        [reference.test(seed) for seed in seeds], [other.test(seed) for seed in seeds], level=level
    )


def headline(reference: Entrant, others: Sequence[Entrant]) -> dict[str, Versus]:
    """What the reference is judged by: `joint`, `curriculum`, `merging`, `best_specialist`,
    `best_scheduler`; where that leaves schedulers out for having fewer seeds, `every_scheduler`,
    over the seeds that all of them have.
    """
    models = [entrant for entrant in others if entrant.kind != "specialist"]
    schedulers = [entrant for entrant in models if entrant.role in _SCHEDULERS]
    families = {
        "joint": [entrant for entrant in models if entrant.role == "joint"],
        "curriculum": [entrant for entrant in models if entrant.role == "curriculum"],
        "merging": [entrant for entrant in models if entrant.role == "merging"],
        "best_specialist": [entrant for entrant in models if entrant.role == "specialist"],
        "best_scheduler": schedulers,
    }
    found = {name: versus(reference, family) for name, family in families.items() if family}
    if schedulers and found["best_scheduler"].left_out:
        common = set.intersection(*(set(shared_seeds(reference, one)) for one in schedulers))
        if common:
            found["every_scheduler"] = versus(reference, schedulers, of=common)
    return found
