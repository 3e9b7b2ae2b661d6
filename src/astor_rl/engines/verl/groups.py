"""A sampled batch as groups of verdicts: advantages, KL coefficients, halves, and their figures.

verl hands over rows in its own order, some synthetic; everything here is aligned with those rows.
Torch and numpy only, so that it can be read and tested without verl.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from astor_rl.config import RunConfig
from astor_rl.errors import RewardError
from astor_rl.plan import GroupOutcome, PlanItem
from astor_rl.policy.advantages import GroupAdvantages, group_advantages
from astor_rl.policy.sketch import paired_halves

NO_GROUP = -1
"""Group number of synthetic rows."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the reward workers said of one row.

    Attributes:
        outcome, format: in [0, 1]; 0 where invalid, and not to be read.
        invalid: the verifier failed, not the model.
        reason: why, one line.
    """

    outcome: float
    format: float
    invalid: bool
    reason: str = ""

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> Verdict:
        """From what `reward.compute_score` returned.

        Raises:
            RewardError: the reward worker reported an error instead of a verdict.
        """
        if info.get("error"):
            raise RewardError(str(info["error"]))
        return cls(
            float(info["outcome"]),
            float(info["format"]),
            bool(info["invalid"]),
            str(info["reason"]),
        )


class Groups:
    """The rows of one step.

    Args:
        items: the plan's.
        slots: each row's slot in the plan, or `NO_GROUP`.
        verdicts: each row's; None for synthetic rows.
        tokens: each row's completion length.
        config: the run.
    """

    def __init__(
        self,
        items: Sequence[PlanItem],
        slots: Sequence[int],
        verdicts: Sequence[Verdict | None],
        tokens: Sequence[int],
        config: RunConfig,
    ) -> None:
        self.items = items
        self.slots = slots
        self.verdicts = verdicts
        self.tokens = tokens
        self._config = config
        self._names = [task.name for task in config.tasks]
        self._rows: dict[int, list[int]] = defaultdict(list)
        for row, slot in enumerate(slots):
            if slot != NO_GROUP:
                self._rows[slot].append(row)

    @property
    def lost(self) -> int:
        """Rollouts that were asked for and never came back."""
        return sum(item.num_generations - len(self._rows[item.slot]) for item in self.items)

    def require_verdicts(self) -> None:
        """Check that there is something to train on.

        Raises:
            RewardError: not one rollout could be judged; a step without loss tokens has no mean.
        """
        judged = [verdict for verdict in self.verdicts if verdict is not None]
        if judged and all(verdict.invalid for verdict in judged):
            raise RewardError(
                f"none of the step's {len(judged)} rollouts could be judged, such as: "
                f"{judged[0].reason or 'no reason given'}; look at the sandbox (astor doctor)"
            )

    @cached_property
    def valid(self) -> Tensor:
        """Which rows have a verdict, bool [rows]."""
        return torch.tensor([v is not None and not v.invalid for v in self.verdicts])

    @cached_property
    def task_id(self) -> Tensor:
        """Each row's task by number, int64 [rows]; 0 for synthetic rows."""
        return torch.tensor(
            [self._of(slot, lambda i: self._names.index(i.task)) for slot in self.slots]
        )

    @cached_property
    def kl_coef(self) -> Tensor:
        """Each row's KL coefficient, float32 [rows]; 0 for synthetic rows."""
        return torch.tensor([float(self._of(slot, lambda i: i.beta)) for slot in self.slots])

    def _of(self, slot: int, read: Any) -> Any:
        return 0 if slot == NO_GROUP else read(self.items[slot])

    def outcomes(self) -> list[GroupOutcome]:
        """What the coordinator is told; rollouts that never came back count as unjudged."""
        found = []
        for item in self.items:
            rows = self._rows[item.slot]
            judged = [self.verdicts[row] for row in rows]
            outcomes = tuple(v.outcome for v in judged if v is not None and not v.invalid)
            found.append(
                GroupOutcome(
                    slot=item.slot,
                    outcomes=outcomes,
                    invalid=item.num_generations - len(outcomes),
                    tokens=sum(self.tokens[row] for row in rows),
                )
            )
        return found

    @cached_property
    def _advantages(self) -> GroupAdvantages:
        width = max((len(rows) for rows in self._rows.values()), default=0)
        outcomes_NG = torch.zeros(len(self.items), width, dtype=torch.float64)
        formats_NG = torch.zeros_like(outcomes_NG)
        valid_NG = torch.zeros(len(self.items), width, dtype=torch.bool)
        for item in self.items:
            for place, row in enumerate(self._rows[item.slot]):
                verdict = self.verdicts[row]
                if verdict is not None and not verdict.invalid:
                    outcomes_NG[item.slot, place] = verdict.outcome
                    formats_NG[item.slot, place] = verdict.format
                    valid_NG[item.slot, place] = True
        return group_advantages(
            outcomes_NG,
            formats_NG,
            valid_NG,
            task_ids=[self._names.index(item.task) for item in self.items],
            kind=self._config.advantage,
            scale_rewards=self._config.scale_rewards,
            format_weight=self._config.format_weight,
            std_floor=self._config.std_floor,
        )

    @cached_property
    def advantages(self) -> Tensor:
        """Each row's, float32 [rows]; 0 for synthetic and unjudged rows."""
        advantages = torch.zeros(len(self.slots))
        for slot, rows in self._rows.items():
            for place, row in enumerate(rows):
                advantages[row] = self._advantages.advantages_NG[slot, place]
        return advantages

    def nonzero_groups(self) -> dict[str, int]:
        """Groups with an advantage, by task."""
        counts = dict.fromkeys(self._names, 0)
        for item, nonzero in zip(self.items, self._advantages.nonzero_N.tolist(), strict=True):
            counts[item.task] += bool(nonzero)
        return counts

    def halves(self) -> Halves | None:
        """The halves a gradient probe measures; None without a task that has both."""
        varies = self._advantages.outcome_varies_N.tolist()
        slots: dict[tuple[int, int], list[int]] = defaultdict(list)
        for item in self.items:
            if varies[item.slot]:
                slots[self._names.index(item.task), item.half].append(item.slot)
        order = paired_halves(slots)
        if not order:
            return None
        row_of = torch.full((len(self.slots),), -1)
        for number, half in enumerate(order):
            for slot in slots[half]:
                row_of[[row for row in self._rows[slot] if self.valid[row]]] = number
        return Halves(
            tasks=tuple(self._names[task] for task, half in order if half == 0),
            row_of=row_of,
            samples=tuple(int((row_of == number).sum()) for number in range(len(order))),
            groups=tuple(len(slots[half]) for half in order),
        )

    def metrics(self) -> dict[str, float]:
        """Rewards and rollouts by task, named as in docs/metrics.md."""
        sampled = [row for rows in self._rows.values() for row in rows]
        metrics = {"tokens/generated": float(sum(self.tokens[row] for row in sampled))}
        mixed = {group.slot: group.mixed for group in self.outcomes()}
        for name in self._names:
            items = [item for item in self.items if item.task == name]
            rows = [row for item in items for row in self._rows[item.slot]]
            if not rows:
                continue
            found = [v for row in rows if (v := self.verdicts[row]) is not None and not v.invalid]
            values = {
                "reward/mean": float(np.mean([v.outcome for v in found])) if found else np.nan,
                "reward/format": float(np.mean([v.format for v in found])) if found else np.nan,
                "batch/groups": len(items),
                "batch/mixed": sum(mixed[item.slot] for item in items),
                "rollouts/invalid": len(rows) - len(found),
                "rollouts/length": float(np.mean([self.tokens[row] for row in rows])),
            }
            metrics |= {f"task/{name}/{metric}": float(value) for metric, value in values.items()}
        return metrics


@dataclass(frozen=True, slots=True)
class Halves:
    """What a probe measures.

    Attributes:
        tasks: those with both halves, in the run's order.
        row_of: int64 [rows], 2 x (place in `tasks`) + half, or -1.
        samples, groups: judged rollouts and groups of each half, length 2 x tasks.
    """

    tasks: tuple[str, ...]
    row_of: Tensor
    samples: tuple[int, ...]
    groups: tuple[int, ...]
