"""Estimates over examples: means, unbiased pass@k, and standard errors clustered by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from astor_rl.evaluate.heldout import standard_error

T = TypeVar("T")

PASS_AT = (1, 5, 10, 100)
"""The k of pass@k that are reported, as far as there are samples."""

_GROUPS = 40
"""Groups that `jackknife` leaves out one by one."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a suite.

    Attributes:
        value: usually in [0, 1]; nan when nothing could be measured.
        se: standard error over examples; None with fewer than two.
        examples: how many it rests on.
    """

    value: float
    se: float | None
    examples: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def mean_metric(values: Sequence[float]) -> Metric:
    """The mean of one number per example, and its standard error.

    Where examples have several samples each number is their mean, so the error is clustered by
    example. When all examples came out alike the error is Agresti and Coull's (see `TaskResult`);
    it is None if they are alike outside [0, 1], where that has no meaning.
    """
    if not values:
        return Metric(math.nan, None, 0)
    column = np.array(values, dtype=np.float64)
    told = len(values) > 1 and (column.min() < column.max() or 0 <= column[0] <= 1)
    return Metric(float(column.mean()), standard_error(column) if told else None, len(values))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of `k` samples is right, in [0, 1].

    1 - C(n - c, k) / C(n, k), Chen et al. 2021, arXiv 2107.03374.

    Args:
        samples: n, drawn.
        right: c of them, 0 .. n.
        k: 1 .. n.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {right} right among {samples} samples isn't defined")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_metrics(outcomes: Sequence[Sequence[float]], *, prefix: str = "pass") -> dict[str, Metric]:
    """`pass@k` for each k of `PASS_AT` that there are samples for.

    An example of which fewer than k samples could be judged is left out of that k: each figure
    says how many examples it rests on.

    Args:
        outcomes: by example, 1.0 for each sample that is right; others count as wrong. Examples
            without samples are left out.
        prefix: of the metrics' names.
    """
    most = max(map(len, outcomes), default=1)
    return {
        f"{prefix}@{k}": mean_metric(
            [
                pass_at_k(len(group), sum(value == 1.0 for value in group), k)
                for group in outcomes
                if len(group) >= k
            ]
        )
        for k in PASS_AT
        if k <= max(most, 1)
    }


def jackknife(examples: Sequence[T], estimate: Callable[[Sequence[T]], float]) -> Metric:
    """An estimate that isn't a mean (corpus BLEU), with its delete-a-group jackknife error.

    The error is None where it can't be told: one example, or estimates that are all alike.

    Args:
        examples: whole examples, with all their samples.
        estimate: of some of them; called up to 41 times.
    """
    if not examples:
        return Metric(math.nan, None, 0)
    value = estimate(examples)
    groups = min(_GROUPS, len(examples))
    if groups < 2:
        return Metric(value, None, len(examples))
    left_out = [
        estimate([example for place, example in enumerate(examples) if place % groups != group])
        for group in range(groups)
    ]
    spread = np.array(left_out) - np.mean(left_out)
    error = math.sqrt((groups - 1) / groups * float(np.square(spread).sum()))
    # Estimates that are all alike (no n-gram matched anywhere) are no certainty.
    return Metric(value, error or None, len(examples))
