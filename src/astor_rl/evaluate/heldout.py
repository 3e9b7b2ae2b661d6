"""Held-out evaluation: the same examples, the same seeds, outcomes with standard errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astor_rl.rollout.base import Request, Sampler
from astor_rl.types import Example, Invalid, Message, Rollout, Score

Submit = Callable[[str, Example, Sequence[Rollout]], "Future[list[Score | Invalid]]"]
Prompt = tuple[tuple[Message, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One example to evaluate: where it belongs and how it is asked.

    `number` counts through the whole evaluation, on all ranks; its samples' seed follows from it.
    """

    number: int
    task: str
    example: Example
    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How one task did.

    Attributes:
        outcome: mean over examples of the mean outcome over samples, in [0, 1].
        outcome_se: standard error of `outcome` over examples (None with fewer than two). When all
            examples came out alike it is Agresti and Coull's, of the mean of n + 4 with two
            successes and two failures added: a few equal outcomes are no certainty.
        format: mean format reward, in [0, 1].
        examples: examples with at least one judged sample.
        invalid: samples the verifier could not judge; they count nowhere.
        truncated: share of samples cut by the length limit.
        mixed: share of examples whose samples differ in outcome (None with one sample): what a
            group of that size could learn from.
        metrics: means of the task's own metrics over judged samples.
        per_example: mean outcome by example key, for paired comparisons.
    """

    outcome: float
    outcome_se: float | None
    format: float
    examples: int
    invalid: int
    truncated: float
    mixed: float | None
    metrics: dict[str, float]
    per_example: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judged:
    """One example with its rollouts and verdicts, for the sample log."""

    item: HeldOut
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Score | Invalid, ...]


def evaluate(
    sampler: Sampler,
    submit: Submit,
    items: Sequence[HeldOut],
    *,
    samples: int,
    temperature: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Judged]:
    """Sample and judge every item; yields them as they are finished.

    Args:
        samples: completions per example, >= 1.
        temperature: 0 for greedy.
        seed: with the weights it fixes the completions.
        progress: called with (examples sampled, examples in all).
    """
    requests = (
        Request(
            id=index,
            messages=item.messages,
            prompt_ids=item.prompt_ids,
            num_generations=samples,
            max_tokens=item.max_tokens,
            seed=seed + item.number,
            temperature=temperature,
        )
        for index, item in enumerate(items)
    )
    groups: dict[int, list[Rollout]] = defaultdict(list)
    pending: list[tuple[int, Future[list[Score | Invalid]]]] = []
    for index, rollout in sampler.sample(requests):
        groups[index].append(rollout)
        if len(groups[index]) == samples:
            groups[index].sort(key=lambda rollout: rollout.index)
            item = items[index]
            pending.append((index, submit(item.task, item.example, groups[index])))
            progress(len(pending), len(items))
    for index, future in pending:
        yield Judged(items[index], tuple(groups[index]), tuple(future.result()))


def summarise(judged: Sequence[Judged]) -> dict[str, TaskResult]:
    """Results by task, in order of first appearance."""
    by_task: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_task[one.item.task].append(one)
    return {task: _summarise_task(group) for task, group in by_task.items()}


def _summarise_task(judged: Sequence[Judged]) -> TaskResult:
    scores = [[v for v in one.verdicts if isinstance(v, Score)] for one in judged]
    flat = [score for group in scores for score in group]
    per_example = {
        one.item.example.key: float(np.mean([score.outcome for score in group]))
        for one, group in zip(judged, scores, strict=True)
        if group
    }
    values = np.array(list(per_example.values()))
    n = len(values)
    several = [group for group in scores if len(group) > 1]
    mixed = [min(s.outcome for s in group) != max(s.outcome for s in group) for group in several]
    cut = [rollout.truncated for one in judged for rollout in one.rollouts]
    return TaskResult(
        outcome=float(values.mean()) if n else math.nan,
        outcome_se=standard_error(values) if n > 1 else None,
        format=float(np.mean([score.format for score in flat])) if flat else math.nan,
        examples=n,
        invalid=sum(isinstance(v, Invalid) for one in judged for v in one.verdicts),
        truncated=float(np.mean(cut)) if cut else 0.0,
        mixed=float(np.mean(mixed)) if mixed else None,
        metrics=_mean_metrics([score.metrics for score in flat]),
        per_example=per_example,
    )


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of at least two numbers in [0, 1]; see `TaskResult.outcome_se`."""
    n = len(values)
    if values.min() < values.max():
        return float(values.std(ddof=1) / math.sqrt(n))
    mean = (values.sum() + 2) / (n + 4)
    return float(math.sqrt(mean * (1 - mean) / (n + 4)))


def _mean_metrics(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the records that have it (a task may not measure all on all)."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            values[name].append(value)
    return {name: float(np.mean(column)) for name, column in sorted(values.items())}
