"""What finished units scored, read from their folders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astor_rl.compare.records import evaluation_file, is_finished
from astor_rl.compare.units import AFTER, BEFORE, LAST, Unit
from astor_rl.errors import DataError
from astor_rl.report.closing import TOKENS
from astor_rl.report.run_folder import read_evaluations, read_metrics

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
        DataError: an evaluation can't be read, or a task has no judged example.
    """
    starts = {
        unit.seed: _scores(evaluation_file(unit, BEFORE))
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
    """States of this package's code that finished runs were trained with, as hashes.

    Those of a run's last session. Of runs from before there were any it is the commit of the
    working folder.
    """
    return sorted({code for unit in units if is_finished(unit) and (code := code_of(unit))})


def code_of(unit: Unit) -> str | None:
    """The state of the code that a run was trained with; None where nobody knows."""
    file = unit.folder / "versions.json"
    state = _read(file) if file.is_file() else {}
    found = state.get("code") or (state.get("git") or {}).get("commit")
    return None if found is None else str(found)


def _trained(unit: Unit, before: Scores) -> Result:
    spent, total = {0: 0}, 0
    for record in read_metrics(unit.folder):
        total += int(record[TOKENS])
        spent[record["step"]] = total
    looks = [
        (int(name.removeprefix("step_")), evaluation)
        for name, evaluation in read_evaluations(unit.folder).items()
        if name.startswith("step_")
    ]
    curve = tuple(
        Point(step, spent[step], _outcomes(evaluation, unit.folder))
        for step, evaluation in sorted(looks, key=lambda look: look[0])
    )
    if not curve or curve[-1].step != max(spent):
        raise DataError(f"{unit.name}: no look at the validation split after the last step")
    after = _read(evaluation_file(unit, AFTER))
    return Result(
        test=_outcomes(after, unit.folder),
        examples=_examples(after),
        before=before,
        curve=curve,
        steps=max(spent),
        tokens=total,
        budget=unit.tokens,
    )


def _merged(unit: Unit, before: Scores, sources: Sequence[Result]) -> Result:
    after = _read(evaluation_file(unit, AFTER))
    steps, tokens = sum(one.steps for one in sources), sum(one.tokens for one in sources)
    last = Point(steps, tokens, _scores(evaluation_file(unit, LAST)))
    return Result(
        test=_outcomes(after, unit.folder),
        examples=_examples(after),
        before=before,
        curve=(last,),
        steps=steps,
        tokens=tokens,
        budget=sum(one.budget for one in sources),
    )


def _scores(path: Path) -> dict[str, float]:
    return _outcomes(_read(path), path)


def _outcomes(evaluation: Mapping[str, Any], path: Path) -> dict[str, float]:
    scores = {name: task["outcome"] for name, task in evaluation["tasks"].items()}
    for name, score in scores.items():
        if score is None:
            raise DataError(f"{str(path)!r}: no sample of task {name!r} could be judged")
    return scores


def _examples(evaluation: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: task["per_example"] for name, task in evaluation["tasks"].items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error}") from None
    return value
