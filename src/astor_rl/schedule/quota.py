"""Module 1, first half: how many prompts of the batch each task gets (docs/method.md, Module 1).

    q_k  proportional to  m_k exp((U_k - se_k^2 / (2 tau)) / tau)      [ / cost_k when cost-aware ]
    q'_k = (1 - eps) q_k + eps m_k

The correction removes the softmax's taste for noise: for an estimate with normal error se,
E exp(U / tau) is too large by exp(se^2 / (2 tau^2)). Equal utilities with equal errors give the
base mixture m exactly, for any m and eps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import LEAST_TAU, check_choice, check_count, check_number
from astor_rl.errors import PlanError
from astor_rl.schedule.baselines.options import METHODS, Method

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_DIGITS = 9
"""Decimals to which remainders are compared: equal quotas tie whatever the order of a sum."""


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """Module 1.

    Attributes:
        method: `astor`, or the published scheduler that stands in its place (docs/baselines.md);
            of the other options here it reads `allow_repeats` alone, and `epochs` unless it chooses
            prompts itself.
        task_scheduling: give tasks quotas by utility; else the base mixture.
        prompt_scheduling: draw prompts by utility; else evenly.
        epochs: where prompts are drawn evenly, every prompt of a task comes once before any comes
            twice; else each free prompt has the same chance in every draw.
        tau: temperature of the softmax over tasks, in units of utility.
        noise_correction: take se^2 / (2 tau) off a utility before the softmax; else the softmax
            favours what is measured badly.
        mix: eps, the part of the batch that follows the base mixture whatever the utilities.
        warmup_steps: most revisions that the base mixture is used for at the start.
        min_groups: groups every task with prompts must have before warm-up ends early.
        cost_aware: divide quotas by tokens a prompt (tokens, not seconds: the same seed must
            give the same run).
        allow_repeats: draw a prompt twice in a plan, or while another plan holds it, rather than
            fail when prompts run out.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    method: Method = "astor"
    task_scheduling: bool = True
    prompt_scheduling: bool = True
    epochs: bool = True
    tau: float = 0.25
    noise_correction: bool = True
    mix: float = 0.2
    warmup_steps: int = 10
    min_groups: int = 8
    cost_aware: bool = False
    allow_repeats: bool = False

    def __post_init__(self) -> None:
        check_choice("schedule.method", self.method, METHODS)
        check_number("schedule.tau", self.tau, low=LEAST_TAU)
        check_number("schedule.mix", self.mix, low=0, high=1)
        check_count("schedule.warmup_steps", self.warmup_steps, low=0)
        check_count("schedule.min_groups", self.min_groups, low=1)


def utility_shares(
    mixture: FloatArray,
    utility: FloatArray,
    se: FloatArray,
    *,
    tau: float,
    cost: FloatArray | None = None,
) -> FloatArray:
    """The softmax over noise-corrected utility, tilted by the base mixture.

    Args:
        mixture: m, [K], > 0, sums to 1.
        utility, se: U and its standard error, [K].
        tau: temperature > 0, in units of utility.
        cost: tokens a prompt, [K], > 0; divides the shares.

    Returns:
        q, [K], sums to 1.
    """
    logits = np.log(mixture) + (utility - np.square(se) / (2 * tau)) / tau
    if cost is not None:
        logits = logits - np.log(cost)
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def mix_floor(shares: FloatArray, mixture: FloatArray, eps: float) -> FloatArray:
    """q' = (1 - eps) q + eps m: no task falls below eps times its base share."""
    return (1 - eps) * shares + eps * mixture


def carry_bound(tasks: int) -> float:
    """How far any task's running total can lag behind its quotas, prompts: H_K - 1, at least 1.

    Without availability caps the carry of `apportion` stays in (-1, H_K - 1] for any sequence of
    quotas, H_K the K-th harmonic number: the mean carry of the j furthest-behind tasks is at most
    H_K - H_j by induction over steps (the cup game's argument).
    """
    return max(1.0, math.fsum(1 / k for k in range(1, tasks + 1)) - 1)


@dataclass(frozen=True, slots=True)
class Apportionment:
    """Whole prompts for fractional quotas.

    Attributes:
        counts: prompts a task, [K], sum to the total.
        carry: what rounding still owes each task (negative: got ahead), prompts, [K].
    """

    counts: IntArray
    carry: FloatArray


def apportion(
    shares: FloatArray, total: int, carry: FloatArray, caps: FloatArray | None = None
) -> Apportionment:
    """Round quotas by largest remainder, the rounding error carried to the next step.

    Prompts go one by one to the task furthest behind its quota plus carry, which is the largest
    remainder method whenever no carry exceeds its quota. A capped task's unspent share goes to
    the others in proportion to their quotas *before* rounding, so it never becomes debt. Ties
    go to the earlier task.

    Args:
        shares: q', [K], >= 0, sums to 1.
        total: B, prompts to hand out.
        carry: the previous call's, [K].
        caps: prompts available, [K], whole numbers or inf.

    Raises:
        PlanError: the caps sum to less than `total`.
    """
    limit = np.full(len(shares), np.inf) if caps is None else caps
    if limit.sum() < total:
        raise PlanError(
            f"{total} prompts are wanted and {int(limit.sum())} are available; lower the batch, "
            "add prompts, or set schedule.allow_repeats"
        )
    target = _capped_quotas(shares, total, limit) + carry
    counts = np.clip(np.floor(np.round(target, _DIGITS)), 0, limit)
    counts[_next_in_line(target, counts, limit, total)] += 1
    while (missing := total - int(counts.sum())) != 0:
        behind = np.round(target - counts, _DIGITS)
        if missing > 0:
            counts[np.argmax(np.where(counts < limit, behind, -np.inf))] += 1
        else:
            counts[np.argmin(np.where(counts > 0, behind, np.inf))] -= 1
    bound = carry_bound(len(shares))
    return Apportionment(counts.astype(np.int64), np.clip(target - counts, -bound, bound))


def _next_in_line(
    target: FloatArray, counts: FloatArray, limit: FloatArray, total: int
) -> IntArray:
    """Who gets one prompt each before anyone gets two; nobody where that isn't clear.

    Taking them together saves a pass over all tasks for each prompt.
    """
    missing = total - int(counts.sum())
    behind = np.round(target - counts, _DIGITS)
    waiting = np.flatnonzero((counts < limit) & (behind >= 0))
    if not 0 < missing <= len(waiting) or behind[waiting].max() >= 1:
        return np.zeros(0, dtype=np.int64)
    return waiting[np.argsort(-behind[waiting], kind="stable")[:missing]]


def _capped_quotas(shares: FloatArray, total: int, caps: FloatArray) -> FloatArray:
    """Fractional prompts a task: proportional to `shares`, none above its cap."""
    # The tiny weight lets prompts reach tasks whose share has underflowed to zero.
    weights = np.maximum(shares, np.finfo(np.float64).tiny)
    full = np.zeros(len(shares), dtype=bool)
    while True:
        left = total - caps[full].sum()
        open_weights = np.where(full, 0.0, weights)
        if left <= 0 or full.all():
            return np.where(full, caps, 0.0)
        quotas = np.where(full, caps, left * open_weights / open_weights.sum())
        over = ~full & (quotas > caps)
        if not over.any():
            return quotas
        full |= over


@dataclass(frozen=True, slots=True)
class ShareStages:
    """Shares as the schedule's parts are switched on one after another, each [K], sums to 1.

    Attributes:
        base: the base mixture m.
        method: with the published scheduler of `schedule.method`; equal to `base` with `astor`.
        potential: with learning potential as the utility.
        synergy: with the whole utility.
        cost: divided by tokens a prompt (equal to `synergy` unless cost-aware).
        floor: mixed with the base mixture: q', the quota.
    """

    base: FloatArray
    method: FloatArray
    potential: FloatArray
    synergy: FloatArray
    cost: FloatArray
    floor: FloatArray

    @classmethod
    def constant(cls, shares: FloatArray) -> ShareStages:
        """Stages at which nothing acts."""
        return cls.by_method(shares, shares)

    @classmethod
    def by_method(cls, base: FloatArray, shares: FloatArray) -> ShareStages:
        """Stages of which only the published scheduler's acts."""
        return cls(base, shares, shares, shares, shares, shares)
