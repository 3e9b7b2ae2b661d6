"""What finished units scored, set in order by what they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astor_rl.compare.reading import code_of, read_unit
from astor_rl.compare.records import is_finished
from astor_rl.compare.units import AFTER, BEFORE, LAST, Unit

Scores = Mapping[str, float]
"""Mean outcome by task, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Point:
    """A look at the validation split: RL steps, completion tokens sampled, scores."""

    step: int
    tokens: int
    scores: Scores


@dataclass(frozen=True, slots=True)
class Result:
    """One finished model.

    Attributes:
        test: its scores on the test split.
        examples: outcomes by task and example key there.
        before: the scores of what it started from, on the same examples.
        curve: looks at the validation split, by step; a merged model has one.
        steps, tokens: what its training took; of a merged model, what its specialists' did.
        budget: tokens it was given; of a merged model, its specialists together.
    """

    test: Scores
    examples: Mapping[str, Mapping[str, float]]
    before: Scores
    curve: tuple[Point, ...]
    steps: int
    tokens: int
    budget: int

    @property
    def validation(self) -> Scores:
        """Scores on the validation split at the end."""
        return self.curve[-1].scores


def mean(scores: Scores) -> float:
    """The mean over tasks."""
    return math.fsum(scores.values()) / len(scores)


def read_results(units: Sequence[Unit]) -> dict[str, Result]:
    """By unit, what the finished ones scored (the start's units have no result of their own).

    Raises:
        DataError: see `read_unit`.
    """
    starts = {
        unit.seed: read_unit(unit).packed.evaluations[BEFORE]
        for unit in units
        if unit.kind == "start" and is_finished(unit)
    }
    found: dict[str, Result] = {}
    for unit in units:
        before = starts.get(unit.seed)
        if unit.kind == "start" or before is None or not is_finished(unit):
            continue
        if unit.kind == "run":
            found[unit.name] = _trained(unit, before)
        elif all(name in found for name in unit.needs):
            found[unit.name] = _merged(unit, before, [found[name] for name in unit.needs])
    return found


def codes(units: Sequence[Unit]) -> list[str]:
    """States of this package's code that finished runs were trained with (`code_of`)."""
    return sorted({code for unit in units if is_finished(unit) and (code := code_of(unit))})


def _trained(unit: Unit, before: Scores) -> Result:
    found = read_unit(unit)
    steps = [0, *(step for step, _ in found.packed.steps)]
    totals = itertools.accumulate((tokens for _, tokens in found.packed.steps), initial=0)
    spent = dict(zip(steps, totals, strict=True))
    curve = [Point(step, spent[step], scores) for step, scores in found.packed.looks.items()]
    return Result(
        test=found.packed.evaluations[AFTER],
        examples={task: found.outcomes(task) for task in found.examples},
        before=before,
        curve=tuple(curve),
        steps=steps[-1],
        tokens=spent[steps[-1]],
        budget=unit.tokens,
    )


def _merged(unit: Unit, before: Scores, sources: Sequence[Result]) -> Result:
    found = read_unit(unit)
    steps, tokens = sum(one.steps for one in sources), sum(one.tokens for one in sources)
    return Result(
        test=found.packed.evaluations[AFTER],
        examples={task: found.outcomes(task) for task in found.examples},
        before=before,
        curve=(Point(steps, tokens, found.packed.evaluations[LAST]),),
        steps=steps,
        tokens=tokens,
        budget=sum(one.budget for one in sources),
    )
