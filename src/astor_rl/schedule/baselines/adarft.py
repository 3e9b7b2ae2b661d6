"""AdaRFT: a target difficulty that follows the reward (Shi et al. 2025, arXiv 2504.05520).

Algorithm 1:

    batch = the B prompts with the smallest |d_i - T|
    T <- clip(T + eta tanh(alpha (mean reward - beta)), d_min, d_max),  T = d_min at the start

with eta 50, alpha 2, beta 0.5 on difficulties from 0 to 100 (these three from memory, the rule from
its text): here 0 to 1, so eta is 0.5. Ties are broken at random. Difficulty is
`TaskSpec.difficulty`, which differs in kind between tasks, so each task has its own T; tasks keep
the base mixture. A task without difficulties has its prompts drawn uniformly. The paper estimates
difficulty by the pass rate of another model; what is given here is the source's estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys
from astor_rl.schedule.baselines.arm import Arm, FloatArray, IntArray, Seen, of_tasks
from astor_rl.utility.task_utility import UtilitySnapshot


class AdaRft(Arm):
    """The prompts nearest to a moving difficulty."""

    picks = True

    def start(self, tasks: Sequence[str]) -> None:
        """From the easiest prompts on."""
        self._targets: dict[str, float] = getattr(self, "_targets", {})
        self._targets |= {name: self._range(name)[0] for name in tasks}

    def _range(self, task: str) -> tuple[float, float]:
        known = self._tasks[task].difficulty
        return (0.0, 0.0) if not known else (float(min(known)), float(max(known)))

    def learn(self, groups: Sequence[Seen]) -> None:
        """Raise a task's target where its mean outcome is above beta, lower it where below."""
        options = self._options
        outcomes: dict[str, list[float]] = {}
        for group in groups:
            outcomes.setdefault(group.task, []).extend(group.outcomes)
        for task, values in outcomes.items():
            if not values:
                continue
            surplus = math.fsum(values) / len(values) - options.adarft_target
            move = options.adarft_rate * math.tanh(options.adarft_sensitivity * surplus)
            low, high = self._range(task)
            self._targets[task] = min(max(self._targets[task] + move, low), high)

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
        distance = np.abs(np.asarray(known, dtype=np.float64)[shuffled] - self._targets[task])
        return np.asarray(shuffled[np.argsort(distance, kind="stable")[:count]], dtype=np.int64)

    def terms(self, task: str) -> dict[str, float]:
        """The task's target."""
        return {"target_difficulty": self._targets[task]}

    def note(self) -> str:
        """The rule."""
        target = self._options.adarft_target
        rule = f"prompts nearest to a difficulty that rises where outcomes exceed {target:g}"
        return rule + self.unranked()

    def own_state(self) -> dict[str, Any]:
        """Targets by task."""
        return {"targets": dict(self._targets)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("AdaRFT", state, ["targets"])
        self._targets = of_tasks(state["targets"], self._targets)
