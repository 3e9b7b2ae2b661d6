"""What the engines must agree on: the loss of a run, the rows of a probe, how time is told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from astor_rl.config import RunConfig
from astor_rl.plan import GradientProbe
from astor_rl.policy.loss import LossConfig
from astor_rl.policy.sketch import GradientRows, Half, paired_halves
from astor_rl.utility.synergy import SynergyOptions


def loss_config(config: RunConfig) -> LossConfig:
    """The loss of a run; verl's own is configured to equal it."""
    return LossConfig(
        loss_type=config.loss_type,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        kl_estimator=config.kl_estimator,
        task_norm=config.task_norm,
        max_completion_length=config.max_completion_length,
        importance_cap=float("inf") if config.importance_cap == "off" else config.importance_cap,
        importance_level=config.importance_level,
    )


def now(device: torch.device | str) -> float:
    """Seconds, after what the device was given is done: a GPU works on behind the clock's back."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class HalfRows:
    """A probe's half-gradients: a row for each half of the tasks that have both.

    Args:
        groups: with outcome variance, by half.
        parameters: what gradients are taken of, in a fixed order.
        options: how much memory whole gradients may take, and the sketch's size beyond it.
        seed: of this probe's sketch (`probe_seed`).

    Attributes:
        halves: those that have a row, in its order.
        parameters: as given.
        seconds: wall time that was the probe's; engines add theirs.
    """

    def __init__(
        self,
        groups: Mapping[Half, int],
        parameters: Sequence[nn.Parameter],
        options: SynergyOptions,
        *,
        seed: int,
    ) -> None:
        self.halves = paired_halves(groups)
        self.parameters = parameters
        self.seconds = 0.0
        self._groups = groups
        self._rows = GradientRows(
            len(self.halves),
            sum(parameter.numel() for parameter in parameters),
            dim=options.sketch_dim,
            memory_limit_mb=options.memory_limit_mb,
            seed=seed,
            device=parameters[0].device,
        )

    @property
    def tensor(self) -> Tensor:
        """All rows, to be summed over ranks in place."""
        return self._rows.rows_RD

    def now(self) -> float:
        """The clock of the device that the rows are on."""
        return now(self._rows.rows_RD.device)

    def add(self, half: Half, gradients: Iterable[Tensor]) -> None:
        """Add a part of a half's gradient."""
        self._rows.add(self.halves.index(half), gradients)

    def gram(
        self, names: Sequence[str], scale_R: NDArray[np.float64] | float = 1.0
    ) -> GradientProbe:
        """Inner products of the rows, each times its scale.

        Args:
            names: task names by number.
            scale_R: of each row.
        """
        scale_R = np.broadcast_to(scale_R, len(self.halves))
        return GradientProbe(
            tasks=tuple(names[task] for task, half in self.halves if half == 0),
            gram_KK=self._rows.gram() * np.outer(scale_R, scale_R),
            groups=tuple(self._groups[half] for half in self.halves),
            sketched=self._rows.sketched,
        )
