"""Self-Evolving Curriculum (Chen et al. 2025, arXiv 2505.14970, section 3).

    r_k = mean |advantage| of the task's rollouts in the step;  Q_k <- (1 - alpha) Q_k + alpha r_k
    share_k  proportional to  exp(Q_k / temperature);  Q_k = 0 at the start

A task that was not sampled keeps its Q (the published code halves it; the paper's TD(0) rule
updates what was sampled). Advantages are of outcomes, see `arm.absolute_advantages`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys, saved_of
from astor_rl.schedule.baselines.arm import (
    Arm,
    FloatArray,
    Seen,
    absolute_advantages,
    softmax,
)
from astor_rl.utility.task_utility import UtilitySnapshot


class Sec(Arm):
    """A bandit over tasks whose reward is the mean absolute advantage."""

    def start(self, tasks: Sequence[str]) -> None:
        """Q is 0 at first."""
        old = getattr(self, "_values", {})
        self._values: dict[str, float] = old | dict.fromkeys(tasks, 0.0)

    def learn(self, groups: Sequence[Seen]) -> None:
        """One TD(0) step for every task that has rollouts."""
        rate = self._options.sec_rate
        for task, gain in mean_advantages(groups).items():
            self._values[task] = (1 - rate) * self._values[task] + rate * gain

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """Boltzmann."""
        values = np.array([self._values[name] for name in self._tasks])
        return softmax(values / self._options.sec_temperature)

    def terms(self, task: str) -> dict[str, float]:
        """Q."""
        return {"q": self._values[task]}

    def note(self) -> str:
        """The rule."""
        return f"shares by exp(q / {self._options.sec_temperature:g}), q of mean |advantage|"

    def own_state(self) -> dict[str, Any]:
        """Q by task."""
        return {"values": dict(self._values)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore Q."""
        check_keys("SEC", state, ["values"])
        self._values = saved_of(state["values"], self._values)


def mean_advantages(groups: Sequence[Seen]) -> dict[str, float]:
    """Mean |advantage| over all rollouts of each task that has any."""
    found: dict[str, list[float]] = {}
    for group in groups:
        found.setdefault(group.task, []).extend(absolute_advantages(group.outcomes))
    return {task: math.fsum(all_) / len(all_) for task, all_ in found.items() if all_}
