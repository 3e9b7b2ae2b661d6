"""Model Predictive Prompt Selection (Qu et al. 2025, arXiv 2507.04632, section 3).

Each prompt has a Beta posterior of its pass rate, Beta(1, 1) at first. After a visit with s right
answers of n:

    alpha <- decay alpha + (1 - decay) 1 + s;   beta <- decay beta + (1 - decay) 1 + n - s

and at each step a candidate's pass rate is drawn from its posterior (Thompson sampling); the
`count` candidates nearest to the target 0.5 are taken. Candidates are 8 for each prompt wanted,
uniform among the free ones, and decay is 0.5, as in the published runs on Countdown and Geometry3k
(on MATH they are 16 and 1). Fractional outcomes count as fractions of a right answer. Tasks keep
the base mixture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys
from astor_rl.schedule.baselines.arm import Arm, FloatArray, IntArray, Seen
from astor_rl.schedule.baselines.columns import PromptColumns
from astor_rl.utility.task_utility import UtilitySnapshot


class Mopps(Arm):
    """Thompson sampling towards a pass rate."""

    picks = True

    def start(self, tasks: Sequence[str]) -> None:
        """Flat priors."""
        self._posteriors: dict[str, PromptColumns] = getattr(self, "_posteriors", {})
        for name in tasks:
            keys = self._tasks[name].keys
            self._posteriors[name] = PromptColumns(keys, {"alpha": 1.0, "beta": 1.0})

    def learn(self, groups: Sequence[Seen]) -> None:
        """Move the posteriors of the prompts that were visited."""
        keep = self._options.mopps_decay
        for group in groups:
            if group.index < 0 or not group.outcomes:
                continue
            posterior, right = self._posteriors[group.task], math.fsum(group.outcomes)
            alpha, beta = (float(posterior[name][group.index]) for name in ("alpha", "beta"))
            posterior.put(
                group.index,
                alpha=keep * alpha + (1 - keep) + right,
                beta=keep * beta + (1 - keep) + len(group.outcomes) - right,
            )

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """The base mixture."""
        return self.mixture

    def pick(
        self, task: str, free: IntArray, count: int, rng: np.random.Generator, *, refill: bool
    ) -> IntArray:
        """The candidates whose sampled pass rate is nearest to the target."""
        size = min(len(free), count * self._options.mopps_candidates)
        candidates = rng.choice(free, size=size, replace=False)
        posterior = self._posteriors[task]
        rates = rng.beta(posterior["alpha"][candidates], posterior["beta"][candidates])
        nearest = np.argsort(np.abs(rates - self._options.mopps_target), kind="stable")
        return np.asarray(candidates[nearest[:count]], dtype=np.int64)

    def terms(self, task: str) -> dict[str, float]:
        """Prompts with evidence, and the mean of their posterior means."""
        posterior = self._posteriors[task]
        known = posterior.touched
        if not known.any():
            return {"known_prompts": 0.0}
        alpha, beta = posterior["alpha"][known], posterior["beta"][known]
        return {
            "known_prompts": float(known.sum()),
            "expected_outcome": float(np.mean(alpha / (alpha + beta))),
        }

    def note(self) -> str:
        """Says so."""
        return f"prompts whose sampled pass rate is nearest to {self._options.mopps_target:g}"

    def own_state(self) -> dict[str, Any]:
        """The posteriors."""
        return {"posteriors": {n: columns.state_dict() for n, columns in self._posteriors.items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("MoPPS", state, ["posteriors"])
        for name in self._tasks.keys() & state["posteriors"].keys():
            self._posteriors[name].load_state_dict(state["posteriors"][name])
