"""AdaRFT: a target difficulty that follows the reward (Shi et al. 2025, arXiv 2504.05520).

Algorithm 1:

    batch = the B prompts with the smallest |d_i - T|
    T <- clip(T + eta tanh(alpha (mean reward - beta)), d_min, d_max),  T = d_min at the start

with eta 50, alpha 2, beta 0.5 on difficulties from 0 to 100, as in its code: here 0 to 1, so eta is
0.5. T is one for all tasks, and so is the mean reward; but tasks keep the base mixture, each giving
its prompts nearest to T. Ties are broken at random. Difficulty is `TaskSpec.difficulty`; a task
without it has its prompts drawn uniformly, and its rewards don't move T. The paper estimates
difficulty by the pass rate of another model; what is given here is the source's estimate, which one
T supposes to mean the same in every task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys
from astor_rl.schedule.baselines.arm import Arm, FloatArray, IntArray, Seen
from astor_rl.utility.task_utility import UtilitySnapshot


class AdaRft(Arm):
    """The prompts nearest to a moving difficulty."""

    picks = True

    def start(self, tasks: Sequence[str]) -> None:
        """From the easiest prompts on."""
        self._target: float = getattr(self, "_target", self._range()[0])

    def _range(self) -> tuple[float, float]:
        known = [spec.difficulty for spec in self._tasks.values() if spec.difficulty]
        if not known:
            return 0.0, 0.0
        return float(min(map(min, known))), float(max(map(max, known)))

    def learn(self, groups: Sequence[Seen]) -> None:
        """Raise the target where the mean outcome is above beta, lower it where below."""
        options = self._options
        outcomes = [
            outcome
            for group in groups
            if self._tasks[group.task].difficulty
            for outcome in group.outcomes
        ]
        if not outcomes:
            return
        surplus = math.fsum(outcomes) / len(outcomes) - options.adarft_target
        move = options.adarft_rate * math.tanh(options.adarft_sensitivity * surplus)
        low, high = self._range()
        self._target = min(max(self._target + move, low), high)

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """The base mixture."""
        return self.mixture

    def pick(
        self, task: str, free: IntArray, count: int, rng: np.random.Generator, *, refill: bool
    ) -> IntArray:
        """The nearest prompts."""
        known = self._tasks[task].difficulty
        if known is None:
            return super().pick(task, free, count, rng, refill=refill)
        shuffled = rng.permutation(free)
        distance = np.abs(np.asarray(known, dtype=np.float64)[shuffled] - self._target)
        return np.asarray(shuffled[np.argsort(distance, kind="stable")[:count]], dtype=np.int64)

    def terms(self, task: str) -> dict[str, float]:
        """The target."""
        return {"target_difficulty": self._target}

    def note(self) -> str:
        """The rule."""
        target = self._options.adarft_target
        rule = f"prompts nearest to a difficulty that rises where outcomes exceed {target:g}"
        return rule + self.unranked()

    def own_state(self) -> dict[str, Any]:
        """The target."""
        return {"target": self._target}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        check_keys("AdaRFT", state, ["target"])
        self._target = float(state["target"])
