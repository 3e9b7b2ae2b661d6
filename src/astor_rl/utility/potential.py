"""Learning potential: how much a task's rollouts disagree (docs/method.md, Learning potential).

A group whose rollouts all score the same has nothing to teach a group-relative policy gradient;
one whose rewards differ has. P_k averages the unbiased sample variance of the *outcome* reward
over a task's recent groups.

**P_k is measured on the prompts that were scheduled, not on the task's population.** Prompt
scheduling prefers prompts with variance, so P_k is a fact about what the policy was shown. Say so
wherever it is displayed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from astor_rl.checks import check_choice, check_keys, check_number

RANGE_VARIANCE = 0.25
"""The largest variance of a reward in [0, 1] (a fair coin): the unit of `range` potentials."""


@dataclass(frozen=True, slots=True)
class PotentialOptions:
    """How learning potential is averaged and scaled.

    Attributes:
        half_life: age at which a group's evidence weighs half, policy revisions.
        scale: `task_rms` divides the variance by the task's total outcome variance, frozen at the
            end of warm-up, floored, and only ever raised afterwards: a running divisor would
            cancel saturation. `range` divides it by 0.25, so that a task whose reward has a small
            range has a small potential whatever it has to learn.
        prior_groups: how many groups' worth of belief the prior spread below carries, so that
            a run of all-equal groups never means certainty.
        prior_sd: prior standard deviation of a group's variance around the task's mean, in
            units of what the scale divides by: an error in other units than the estimate's would
            hold a task of small variance for unmeasured.
        rms_floor: least divisor of `task_rms`, in units of the reward range's variance (0.25).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    half_life: float = 8.0
    scale: Literal["range", "task_rms"] = "task_rms"
    prior_groups: float = 2.0
    prior_sd: float = 0.35
    rms_floor: float = 0.1

    def __post_init__(self) -> None:
        check_number("potential.half_life", self.half_life, low=0, above=True)
        check_choice("potential.scale", self.scale, ("range", "task_rms"))
        check_number("potential.prior_groups", self.prior_groups, low=1e-6)
        check_number("potential.prior_sd", self.prior_sd, low=0, above=True)
        check_number("potential.rms_floor", self.rms_floor, low=0, above=True)


@dataclass(frozen=True, slots=True)
class PotentialEstimate:
    """A task's learning potential on the prompts that were scheduled.

    Attributes:
        value: P_k >= 0 in the units of `PotentialOptions.scale`; 0 when nothing was measured.
        se: its standard error, same units, > 0.
        groups: groups with at least two valid rollouts ever observed.
        revision: the newest revision among them; None when there are none.
        mean_outcome: mean outcome under the same weights, in [0, 1]; None when unmeasured.
    """

    value: float
    se: float
    groups: int
    revision: int | None
    mean_outcome: float | None


def group_variance(outcomes: Sequence[float]) -> float | None:
    """Unbiased sample variance of one group's valid outcomes, in [0, 0.5].

    For Bernoulli(p) outcomes its mean is p (1 - p) for every group size >= 2. Equal outcomes give
    exactly 0: the rewards are compared, not a rounded deviation. None for fewer than two.
    """
    if len(outcomes) < 2:
        return None
    if min(outcomes) == max(outcomes):
        return 0.0
    mean = math.fsum(outcomes) / len(outcomes)
    return math.fsum((outcome - mean) ** 2 for outcome in outcomes) / (len(outcomes) - 1)


@dataclass(slots=True)
class _Evidence:
    """Decayed sums over a task's groups, all as of `revision` (-1: none yet)."""

    groups: int = 0
    revision: int = -1
    weight: float = 0.0
    weight_squared: float = 0.0
    variance: float = 0.0
    variance_squared: float = 0.0
    outcomes: float = 0.0
    outcome: float = 0.0
    outcome_squared: float = 0.0
    divisor: float = 0.0

    def decay_to(self, revision: int, half_life: float) -> float:
        """Move the sums to `revision`, or keep them; returns the weight of evidence from it.

        Evidence that arrives late (from an older revision) enters with the weight it would have
        had if it had come in time, so the sums do not depend on the order of revisions.
        """
        if self.revision < 0:
            self.revision = revision
        gap = revision - self.revision
        factor = math.exp2(-abs(gap) / half_life)
        if gap <= 0:
            return factor
        self.revision = revision
        self.weight *= factor
        self.weight_squared *= factor * factor
        self.variance *= factor
        self.variance_squared *= factor
        self.outcomes *= factor
        self.outcome *= factor
        self.outcome_squared *= factor
        return 1.0

    def total_variance(self) -> float:
        """Variance of single outcomes, within and between groups; 0 without evidence."""
        if self.outcomes <= 0:
            return 0.0
        mean = self.outcome / self.outcomes
        return max(0.0, self.outcome_squared / self.outcomes - mean * mean)


class Potential:
    """Learning potential of every task, from groups as they are observed.

    Each group weighs 2^(-age / half_life), age in revisions: with equally many groups at every
    revision this is docs/method.md's average over revisions; with unequally many, a revision counts
    by its groups, which is the average of least variance.
    """

    def __init__(self, tasks: Iterable[str], options: PotentialOptions) -> None:
        self._options = options
        self._tasks = {name: _Evidence() for name in tasks}

    def add_task(self, name: str) -> None:
        """Start measuring a new task."""
        self._tasks[name] = _Evidence()

    def groups(self, task: str) -> int:
        """Groups with at least two valid rollouts observed of a task."""
        return self._tasks[task].groups

    def observe(self, task: str, revision: int, outcomes: Sequence[float]) -> None:
        """Take in the valid outcomes of one group; with fewer than two it says nothing here."""
        variance = group_variance(outcomes)
        if variance is None:
            return
        evidence = self._tasks[task]
        weight = evidence.decay_to(revision, self._options.half_life)
        evidence.groups += 1
        evidence.weight += weight
        evidence.weight_squared += weight * weight
        evidence.variance += weight * variance
        evidence.variance_squared += weight * variance * variance
        evidence.outcomes += weight * len(outcomes)
        evidence.outcome += weight * math.fsum(outcomes)
        evidence.outcome_squared += weight * math.fsum(o * o for o in outcomes)

    def freeze_scales(self) -> None:
        """Set `task_rms` divisors that are not set yet, and raise those that have become too low.

        Call it at the end of warm-up and at any later revision.
        """
        floor = self._options.rms_floor * RANGE_VARIANCE
        for evidence in self._tasks.values():
            if evidence.groups:
                evidence.divisor = max(evidence.divisor, floor, evidence.total_variance())

    def estimate(self, task: str) -> PotentialEstimate:
        """P_k with its standard error.

        The spread s^2 of group variances is the weighted sample estimate, pooled with
        `prior_groups` groups of spread `prior_sd` times the divisor;
        SE^2 = s^2 sum w^2 / (sum w)^2.
        """
        evidence = self._tasks[task]
        divisor = self._divisor(evidence)
        prior = (self._options.prior_sd * divisor) ** 2
        if evidence.weight <= 0:
            return PotentialEstimate(0.0, math.sqrt(prior) / divisor, 0, None, None)
        effective = evidence.weight**2 / evidence.weight_squared
        mean = evidence.variance / evidence.weight
        scatter = max(0.0, evidence.variance_squared / evidence.weight - mean * mean)
        belief = self._options.prior_groups
        spread = (belief * prior + effective * scatter) / (belief + effective - 1)
        return PotentialEstimate(
            value=mean / divisor,
            se=math.sqrt(spread / effective) / divisor,
            groups=evidence.groups,
            revision=evidence.revision,
            mean_outcome=evidence.outcome / evidence.outcomes,
        )

    def _divisor(self, evidence: _Evidence) -> float:
        frozen = self._options.scale == "task_rms" and evidence.divisor > 0
        return evidence.divisor if frozen else RANGE_VARIANCE

    def state_dict(self) -> dict[str, Any]:
        """Every task's sums, JSON-ready."""
        return {name: asdict(evidence) for name, evidence in self._tasks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`; its tasks must be this object's.

        Raises:
            StateError: tasks or entries differ; they are named.
        """
        check_keys("potential", state, self._tasks)
        names = [field.name for field in fields(_Evidence)]
        for name, entries in state.items():
            check_keys(f"potential of {name}", entries, names)
        self._tasks = {name: _Evidence(**state[name]) for name in self._tasks}
