"""Transfer-Aware Curriculum (Yang et al. 2026, arXiv 2606.25178).

    A_k <- (1 - rate) A_k + rate mean |advantage| of the step
    share_k  proportional to  exp(A_k (1 + a c_k) / temperature)

c_k is the mean cosine of the task's gradient with the others'. The paper's text past its abstract
could not be had: this is the form in this project's notes (learnability times one plus a multiple
of mean cosine, through a softmax), with the averaging and the temperature of SEC, on which it
builds. The paper takes cosines of randomly projected gradients of the step itself; here they are
the coordinator's, measured every `synergy.every` steps and corrected for noise (S_k before
shrinkage; `synergy.estimator = "plain"` leaves the correction out), 0 while unresolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys, saved_of
from astor_rl.schedule.baselines.arm import Arm, FloatArray, Seen, softmax
from astor_rl.schedule.baselines.sec import mean_advantages
from astor_rl.utility.task_utility import UtilitySnapshot


class Tac(Arm):
    """Learnability times transferability."""

    def start(self, tasks: Sequence[str]) -> None:
        """Nothing is known at first."""
        self._advantage: dict[str, float] = getattr(self, "_advantage", {})
        self._transfer: dict[str, float] = getattr(self, "_transfer", {})
        self._advantage |= dict.fromkeys(tasks, 0.0)
        self._transfer |= dict.fromkeys(tasks, 0.0)

    def learn(self, groups: Sequence[Seen]) -> None:
        """Move the averages of the tasks that were sampled."""
        rate = self._options.tac_rate
        for task, gain in mean_advantages(groups).items():
            self._advantage[task] = (1 - rate) * self._advantage[task] + rate * gain

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """Softmax over the scores."""
        self._transfer = {name: snapshot.tasks[name].synergy or 0.0 for name in self._tasks}
        scores = np.array(
            [
                self._advantage[name] * (1 + self._options.tac_weight * self._transfer[name])
                for name in self._tasks
            ]
        )
        return softmax(scores / self._options.tac_temperature)

    def terms(self, task: str) -> dict[str, float]:
        """Both factors."""
        return {"advantage": self._advantage[task], "transfer": self._transfer[task]}

    def note(self) -> str:
        """The rule."""
        weight, temperature = self._options.tac_weight, self._options.tac_temperature
        return f"shares by exp(advantage (1 + {weight:g} transfer) / {temperature:g})"

    def own_state(self) -> dict[str, Any]:
        """Both factors by task."""
        return {"advantage": dict(self._advantage), "transfer": dict(self._transfer)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("TAC", state, ["advantage", "transfer"])
        self._advantage = saved_of(state["advantage"], self._advantage)
        self._transfer = saved_of(state["transfer"], self._transfer)
