"""What each task put into the loss: shares, KL, clipping (docs/method.md, Module 2, the ledger).

The log-files of this room: every name in `Ledger.metrics` is explained there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_TOKENS, _POLICY, _KL_LOSS, _KL, _CLIPPED, _ENTROPY, _ENTROPY_TOKENS = range(7)
_ROWS = 7


@dataclass(frozen=True, slots=True)
class Ledger:
    """Sums over loss tokens by task; additive over bins and ranks.

    Attributes:
        sums: float64 [7, K]: loss tokens, absolute policy loss, absolute KL loss, measured KL
            (k3, nats), clipped tokens, entropy (nats), tokens whose entropy was measured.
    """

    sums: Tensor

    @classmethod
    def empty(cls, tasks: int, device: torch.device | str = "cpu") -> Self:
        """All zeros, for K tasks."""
        return cls(torch.zeros(_ROWS, tasks, dtype=torch.float64, device=device))

    @classmethod
    def measure(
        cls,
        *,
        mask_T: Tensor,
        task_T: Tensor,
        tasks: int,
        policy_T: Tensor,
        kl_loss_T: Tensor,
        kl_T: Tensor,
        clipped_T: Tensor,
        entropy_T: Tensor | None = None,
    ) -> Self:
        """Sum a bin's tokens by task; masked tokens count nowhere."""
        unmeasured_T = torch.zeros_like(policy_T)
        rows_T = torch.stack(
            [
                torch.ones_like(policy_T),
                policy_T.abs(),
                kl_loss_T.abs(),
                kl_T,
                clipped_T.to(policy_T),
                unmeasured_T if entropy_T is None else entropy_T.detach().to(policy_T),
                unmeasured_T if entropy_T is None else unmeasured_T + 1,
            ]
        ).double()
        rows_T = torch.where(mask_T, rows_T, 0.0)
        return cls(rows_T.new_zeros(_ROWS, tasks).index_add(1, task_T, rows_T))

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(self.sums + other.sums)

    def clipped_over(self, passes: Sequence[Ledger]) -> Ledger:
        """This one, with the clipped tokens of these passes over the batch on average.

        In the first pass the policy is the one that the ratio is to: nothing is clipped there.
        """
        sums = self.sums.clone()
        sums[_CLIPPED] = torch.stack([each.sums[_CLIPPED] for each in passes]).mean(dim=0)
        return Ledger(sums)

    def all_reduce(self, reduce: Callable[[Tensor], object]) -> None:
        """Sum over ranks in place; `reduce` is e.g. `torch.distributed.all_reduce`."""
        reduce(self.sums)

    def loss_tokens(self, tasks: Sequence[str]) -> dict[str, int]:
        """Completion tokens that entered the loss, by task."""
        counts = self.sums[_TOKENS].tolist()
        return {task: round(count) for task, count in zip(tasks, counts, strict=True)}

    def policy_loss_share(self, tasks: Sequence[str]) -> dict[str, float]:
        """Each task's share of the absolute policy loss; all 0 where there is none."""
        return self._shares(_POLICY, tasks)

    def kl_loss_share(self, tasks: Sequence[str]) -> dict[str, float]:
        """Each task's share of the KL loss, beta included; all 0 where there is none."""
        return self._shares(_KL_LOSS, tasks)

    def kl(self, tasks: Sequence[str]) -> dict[str, float]:
        """Mean KL to the reference for each token, nats (k3); only tasks with loss tokens."""
        return self._means(_KL, _TOKENS, tasks)

    def metrics(self, tasks: Sequence[str]) -> dict[str, float]:
        """Flat numbers for `metrics.jsonl`, named `task/<name>/<metric>`.

        `loss_tokens`; `policy_loss_share` and `kl_loss_share` in [0, 1]; `kl` and `entropy`,
        nats a token; `clip_fraction`, share of tokens whose ratio the clip holds back. Means are
        left out for tasks without tokens, `entropy` also where it wasn't measured.
        """
        columns: Mapping[str, Mapping[str, float]] = {
            "loss_tokens": self.loss_tokens(tasks),
            "policy_loss_share": self.policy_loss_share(tasks),
            "kl_loss_share": self.kl_loss_share(tasks),
            "kl": self.kl(tasks),
            "clip_fraction": self._means(_CLIPPED, _TOKENS, tasks),
            "entropy": self._means(_ENTROPY, _ENTROPY_TOKENS, tasks),
        }
        return {
            f"task/{task}/{metric}": float(values[task])
            for metric, values in columns.items()
            for task in tasks
            if task in values
        }

    def _shares(self, row: int, tasks: Sequence[str]) -> dict[str, float]:
        mass = self.sums[row]
        shares = (mass / mass.sum() if bool(mass.sum() > 0) else torch.zeros_like(mass)).tolist()
        return dict(zip(tasks, shares, strict=True))

    def _means(self, row: int, count: int, tasks: Sequence[str]) -> dict[str, float]:
        totals, counts = self.sums[row].tolist(), self.sums[count].tolist()
        return {
            task: total / n for task, total, n in zip(tasks, totals, counts, strict=True) if n > 0
        }
