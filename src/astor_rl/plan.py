"""What crosses the coordinator's boundary: plans out, observations in.

Plain frozen records, numpy and the standard library only. An engine needs nothing else of the
core's insides: it executes a `StepPlan`, reports `GroupOutcome`s as they finish (partially, in
any order) and one `UpdateStats` after the optimiser's step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task as the coordinator knows it.

    Attributes:
        name: unique, for metrics and receipts.
        keys: keys of the training prompts. Any sequence: it is indexed, never copied, so ten
            million prompts may be a lazy view. Content hashes, unique within the task.
        ratio: unnormalised base-mixture weight m_k, > 0.
        beta: base KL coefficient beta_k, >= 0.
        num_generations: G, rollouts a prompt, >= 2.
        max_tokens: completion length limit, tokens.
        difficulty: of each prompt, 0 (easy) to 1 (hard), in the order of `keys`; None: unknown.
            Only some of the published schedulers read it (`schedule.method`).
    """

    name: str
    keys: Sequence[str]
    ratio: float = 1.0
    beta: float = 0.001
    num_generations: int = 8
    max_tokens: int = 256
    difficulty: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One prompt of a batch: sample a group of it.

    Attributes:
        slot: its place in the plan, 0 .. len(items)-1; `GroupOutcome.slot` refers to it.
        task, key: which prompt.
        num_generations: G.
        max_tokens: completion length limit, tokens.
        beta: the KL coefficient of every rollout of this group.
        propensity: conditional inclusion probability of this draw, in (0, 1].
        half: 0 or 1: which half of its task's groups it belongs to on a probe step
            (docs/method.md, Synergy). Always set; only used when the plan is a probe.
    """

    slot: int
    task: str
    key: str
    num_generations: int
    max_tokens: int
    beta: float
    propensity: float
    half: int = 0


@dataclass(frozen=True, slots=True)
class TaskReceipt:
    """Why one task got its share and its beta in one plan.

    The share's parts are successive differences as potential, synergy, cost (0 unless
    `schedule.cost_aware`), floor, rounding and availability are switched on one after another:
    `base + sum(parts) == share` exactly. With a published scheduler in Module 1's place
    (`schedule.method`), `method` is its whole part and `terms` are its own figures by name.
    """

    base: float
    potential: float
    synergy: float
    floor: float
    rounding: float
    availability: float
    share: float
    prompts: int
    beta: float
    beta_base: float
    beta_multiplier: float
    z: float
    utility: float
    utility_se: float
    cost: float = 0.0
    method: float = 0.0
    terms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The whole explanation of a plan; goes to `receipts.jsonl` as is.

    Attributes:
        phase: `warmup` (base mixture until every task is measured) or `scheduled`.
        snapshot_revision: the revision of the utility snapshot both modules read.
        tasks: by name.
        notes: one line each, for people (a task ran out of prompts, a pair is unresolved, ...).
    """

    phase: str
    snapshot_revision: int
    tasks: Mapping[str, TaskReceipt]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The next batch. `probe` asks the engine for a half-batch gradient Gram this step."""

    id: int
    revision: int
    items: tuple[PlanItem, ...]
    receipt: Receipt
    probe: bool = False


def varies(outcomes: Sequence[float]) -> bool:
    """Whether a group teaches GRPO anything: two of its outcomes differ."""
    return bool(outcomes) and min(outcomes) != max(outcomes)


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """The rewards of one finished group.

    Attributes:
        slot: the plan item it answers.
        outcomes: outcome rewards of the *valid* rollouts, each in [0, 1].
        invalid: how many rollouts the verifier could not judge; they are not in `outcomes`.
        tokens: completion tokens sampled for the group (the cost, in tokens).
    """

    slot: int
    outcomes: tuple[float, ...]
    invalid: int = 0
    tokens: int = 0

    @property
    def mixed(self) -> bool:
        """Whether two judged rollouts differ in outcome."""
        return varies(self.outcomes)


@dataclass(frozen=True, slots=True)
class GradientProbe:
    """Inner products of half-batch policy gradients at one revision.

    Attributes:
        tasks: names of the tasks present in both halves, length K'.
        gram_KK: float64 [2K', 2K']; row 2k is half a of task k, row 2k+1 is half b.
            Each half is a mean over its groups with a fixed loss denominator.
        groups: groups behind each row, length 2K'.
        sketched: whether the products are of CountSketches (they then carry sketch noise).
    """

    tasks: tuple[str, ...]
    gram_KK: NDArray[np.float64]
    groups: tuple[int, ...]
    sketched: bool = False


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What the update measured.

    Attributes:
        kl: mean per-token KL to the reference by task, nats, before the update.
        loss_tokens: completion tokens that entered the loss, by task.
        policy_loss_share, kl_loss_share: each task's share of the absolute loss mass, by task.
        nonzero_groups: groups with non-zero advantages, by task.
        probe: the gradient Gram, on probe steps whose plan had enough groups.
    """

    kl: Mapping[str, float] = field(default_factory=dict)
    loss_tokens: Mapping[str, int] = field(default_factory=dict)
    policy_loss_share: Mapping[str, float] = field(default_factory=dict)
    kl_loss_share: Mapping[str, float] = field(default_factory=dict)
    nonzero_groups: Mapping[str, int] = field(default_factory=dict)
    probe: GradientProbe | None = None
