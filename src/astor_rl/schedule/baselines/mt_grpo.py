"""Multi-Task GRPO (Ramesh et al. 2026, arXiv 2602.05547, Algorithm 1, Subroutine 1, section 5).

    z = softmax(xi);  s_k = I_k + lambda J_k;  g_k = z_k (s_k - sum_j z_j s_j)
    xi <- AdamW step on g (descent: low and stagnating tasks gain), xi = 0 at the start

J_k is a moving average (half of it new, 0 at the start) of the mean outcome of the task's rollouts
in a step, refused groups included, as in the published code, which counts right answers; I_k is the
improvement, clipped to +- 0.1; lambda 0.2, learning rate 0.025 and weight decay 1e-5 are the
paper's appendix. The code moves the logits once a mini-batch, four times a step; here a step is one
update and moves them once. The ratio-preserving sampler makes z the shares of the groups that
*have* variance: others are replaced; since each task is asked for exactly what it lacks, the
inflation of the first draw (3 in the code's scripts) would only save rounds and is left out.

The paper's I_k is the change of the task's GRPO objective on the same batch by the update, which
costs another forward pass and which no coordinator sees. Here it is the change of its mean outcome
from its previous step to this one. A task without groups in a step keeps J_k and has I_k = 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from astor_rl.checks import check_keys, saved_of
from astor_rl.plan import varies
from astor_rl.schedule.baselines.arm import Arm, FloatArray, Seen, softmax
from astor_rl.utility.task_utility import UtilitySnapshot

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8

_KEPT: Final = 0.5
_FIGURES = ("logit", "first", "second", "reward", "last", "improvement", "known")


class MtGrpo(Arm):
    """Improvement-aware weights, preserved among the groups that count."""

    filters = True

    def start(self, tasks: Sequence[str]) -> None:
        """Logits of 0: equal shares."""
        self._steps = getattr(self, "_steps", 0)
        self._state: dict[str, dict[str, float]] = getattr(self, "_state", {})
        self._state |= {name: dict.fromkeys(_FIGURES, 0.0) for name in tasks}

    def learn(self, groups: Sequence[Seen]) -> None:
        """Subroutine 1."""
        for state in self._state.values():
            state["improvement"] = 0.0
        outcomes: dict[str, list[float]] = {}
        for group in groups:
            outcomes.setdefault(group.task, []).extend(group.outcomes)
        for task, values in outcomes.items():
            if values:
                self._measure(self._state[task], math.fsum(values) / len(values))
        self._descend()

    def _measure(self, state: dict[str, float], reward: float) -> None:
        if state["known"]:
            limit = self._options.mt_grpo_clip
            state["improvement"] = min(max(reward - state["last"], -limit), limit)
        state["reward"] = _KEPT * state["reward"] + (1 - _KEPT) * reward
        state["last"], state["known"] = reward, 1.0

    def _descend(self) -> None:
        """One AdamW step (Loshchilov and Hutter 2019, arXiv 1711.05101) on the logits."""
        options = self._options
        self._steps += 1
        states = [self._state[name] for name in self._tasks]
        weights = softmax(np.array([state["logit"] for state in states]))
        signal = np.array(
            [state["improvement"] + options.mt_grpo_lambda * state["reward"] for state in states]
        )
        gradient = weights * (signal - weights @ signal)
        for state, slope in zip(states, gradient.tolist(), strict=True):
            state["first"] = _BETA_1 * state["first"] + (1 - _BETA_1) * slope
            state["second"] = _BETA_2 * state["second"] + (1 - _BETA_2) * slope**2
            mean = state["first"] / (1 - _BETA_1**self._steps)
            size = math.sqrt(state["second"] / (1 - _BETA_2**self._steps)) + _EPSILON
            state["logit"] *= 1 - options.mt_grpo_rate * options.mt_grpo_decay
            state["logit"] -= options.mt_grpo_rate * mean / size

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """z."""
        return softmax(np.array([self._state[name]["logit"] for name in self._tasks]))

    def keeps(self, task: str, outcomes: Sequence[float]) -> bool:
        """Whether two outcomes differ."""
        return varies(outcomes)

    def terms(self, task: str) -> dict[str, float]:
        """Logit, average outcome and improvement."""
        return {name: self._state[task][name] for name in ("logit", "reward", "improvement")}

    def note(self) -> str:
        """The rule."""
        return "shares by exp(logit) among groups with variance; low and stagnating tasks gain"

    def own_state(self) -> dict[str, Any]:
        """Logits with the optimiser's moments."""
        return {"steps": self._steps, "tasks": {n: dict(s) for n, s in self._state.items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("MT-GRPO", state, ["steps", "tasks"])
        for name, figures in state["tasks"].items():
            check_keys(f"MT-GRPO's {name}", figures, _FIGURES)
        self._steps = int(state["steps"])
        self._state = {n: dict(s) for n, s in saved_of(state["tasks"], self._state).items()}
