"""DUMP: upper confidence bounds over tasks (Wang et al. 2025, arXiv 2504.09710, section 3.3).

    L_k = mean |advantage| over the task's last `window` rollouts
    UCB_k = L_k + sqrt(2 ln(N + 1) / (n_k + 1)),  n_k its rollouts so far, N their sum
    share_k  proportional to  exp(UCB_k / temperature)

Window 300 and temperature 0.1 are the published code's. N is at least 1, as there.
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


class Dump(Arm):
    """A bandit over tasks that explores those with few rollouts."""

    def start(self, tasks: Sequence[str]) -> None:
        """Nothing was sampled yet."""
        self._windows: dict[str, list[float]] = getattr(self, "_windows", {})
        self._counts: dict[str, int] = getattr(self, "_counts", {})
        self._windows |= {name: [] for name in tasks}
        self._counts |= dict.fromkeys(tasks, 0)

    def learn(self, groups: Sequence[Seen]) -> None:
        """Push the rollouts' advantages through the windows."""
        for group in groups:
            window = self._windows[group.task]
            window += absolute_advantages(group.outcomes)
            del window[: -self._options.dump_window]
            self._counts[group.task] += len(group.outcomes)

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """Softmax over the bounds."""
        bounds = np.array([sum(self._bound(name)) for name in self._tasks])
        return softmax(bounds / self._options.dump_temperature)

    def _bound(self, task: str) -> tuple[float, float]:
        """Mean advantage and exploration bonus."""
        window = self._windows[task]
        mean = math.fsum(window) / len(window) if window else 0.0
        total = max(1, sum(self._counts[name] for name in self._tasks))
        return mean, math.sqrt(2 * math.log(total + 1) / (self._counts[task] + 1))

    def terms(self, task: str) -> dict[str, float]:
        """Both parts of the bound, and the rollouts behind it."""
        mean, bonus = self._bound(task)
        return {"advantage": mean, "bonus": bonus, "rollouts": float(self._counts[task])}

    def note(self) -> str:
        """The rule."""
        return f"shares by exp((advantage + bonus) / {self._options.dump_temperature:g})"

    def own_state(self) -> dict[str, Any]:
        """Windows and counts."""
        windows = {name: np.array(window) for name, window in self._windows.items()}
        return {"windows": windows, "counts": dict(self._counts)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("DUMP", state, ["windows", "counts"])
        found = saved_of(state["windows"], self._windows)
        self._windows = {name: np.asarray(window).tolist() for name, window in found.items()}
        self._counts = saved_of(state["counts"], self._counts)
