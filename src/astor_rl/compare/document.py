"""`comparison.json`: everything that was found, for programs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astor_rl.compare.analysis import Analysis, judging_error, over_seeds
from astor_rl.compare.curves import at_step, forgotten, reached
from astor_rl.compare.entrants import Entrant
from astor_rl.compare.intervals import Interval, mean_interval
from astor_rl.compare.results import mean
from astor_rl.compare.spec import CompareConfig


@dataclass(frozen=True, slots=True)
class Status:
    """How far the comparison is.

    Attributes:
        finished, units: how many of how many.
        failed: by unit, why.
        codes: states of our code that finished runs were trained with (hashes).
    """

    finished: int
    units: int
    failed: Mapping[str, str]
    codes: Sequence[str] = ()


def document(comparison: CompareConfig, analysis: Analysis, status: Status) -> dict[str, Any]:
    """The findings as JSON: scores in [0, 1], gains in percent, intervals over seeds at 95%."""
    reference = analysis.reference
    head = reference.name if reference else comparison.reference
    return {
        "comparison": comparison.model_dump(mode="json"),
        "finished": status.finished,
        "units": status.units,
        "failed": dict(status.failed),
        "codes": list(status.codes),
        "tasks": list(analysis.tasks),
        "before_rl": {task: one.as_dict() for task, one in analysis.before.items()},
        "arms": {e.name: _entrant(e, analysis) for e in analysis.entrants},
        "gains": {name: one.as_dict() for name, one in analysis.gains.items()},
        "own_specialists": {
            arm: {task: one.as_dict() for task, one in found.items()}
            for arm, found in analysis.own.items()
        },
        "ranking": _ranking(analysis),
        **{f"{head}_vs_{name}": one.as_dict() for name, one in analysis.headline.items()},
    }


def _entrant(entrant: Entrant, analysis: Analysis) -> dict[str, Any]:
    joint = joint_of(analysis)
    found = reached(entrant, joint) if joint else None
    results = entrant.results
    return {
        "role": entrant.role,
        "kind": entrant.kind,
        "task": entrant.task,
        "chosen": {str(seed): task for seed, task in entrant.chosen.items()},
        "seeds": sorted(results),
        "steps": {str(seed): result.steps for seed, result in results.items()},
        "tokens": {str(seed): result.tokens for seed, result in results.items()},
        "budget_spent": spent(entrant),
        "test": {
            "mean": over_seeds(entrant, lambda r: mean(r.test)).as_dict(),
            **{task: _of_task(entrant, task).as_dict() for task in analysis.tasks},
        },
        "test_by_seed": {str(seed): dict(result.test) for seed, result in results.items()},
        "change": {task: changed(entrant, task).as_dict() for task in analysis.tasks},
        "forgotten": {
            task: lost(entrant, task, analysis.looks).as_dict()
            for task in analysis.tasks
            if entrant.kind == "run"
        },
        "matched_step": _matched(entrant, analysis.steps),
        "tokens_to_joint": None
        if found is None
        else {
            "reached": found.times,
            "of": found.seeds,
            "median": found.median,
            "target": found.target,
        },
        "judging_error": judging_error(analysis.reference, entrant)
        if analysis.reference and analysis.reference is not entrant
        else None,
        "curve": {
            str(seed): [
                {"step": p.step, "tokens": p.tokens, "validation": dict(p.scores)}
                for p in result.curve
            ]
            for seed, result in results.items()
        },
    }


def changed(entrant: Entrant, task: str) -> Interval:
    """Its test score of a task, against before RL."""
    return over_seeds(entrant, lambda result: result.test[task] - result.before[task])


def lost(entrant: Entrant, task: str, looks: Collection[int]) -> Interval:
    """What it forgot of a task since its best look (see `forgotten`)."""
    return over_seeds(entrant, lambda result: forgotten(result, task, looks))


def _of_task(entrant: Entrant, task: str) -> Interval:
    return over_seeds(entrant, lambda result: result.test[task])


def spent(entrant: Entrant) -> bool:
    """Whether every run used its budget up (else its steps ended first)."""
    return all(result.tokens >= result.budget for result in entrant.results.values())


def joint_of(analysis: Analysis) -> Entrant | None:
    """The arm whose final score is what others are timed to reach."""
    return next((e for e in analysis.entrants if (e.role, e.kind) == ("joint", "run")), None)


def _matched(entrant: Entrant, step: int) -> dict[str, Any] | None:
    if entrant.kind != "run":
        return None
    scores = [at_step(result, step) for result in entrant.results.values()]
    known = [score for score in scores if score is not None]
    return {"step": step, "validation": mean_interval(known).as_dict()} if known else None


def _ranking(analysis: Analysis) -> dict[str, Any] | None:
    found = analysis.ranking
    if found is None:
        return None
    return {
        "seeds": list(found.seeds),
        "counts": {name: list(counts) for name, counts in found.counts.items()},
        "average": dict(found.average),
        "kendalls_w": found.w,
    }
