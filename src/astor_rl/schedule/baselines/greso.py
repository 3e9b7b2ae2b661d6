"""GRESO: skip prompts that have stopped teaching (Zheng et al. 2025, arXiv 2506.02177, section 4).

A prompt whose last c visits had no variance is skipped with probability 1 - max(p^c, 0.01), p that
of its kind: too easy or too hard. After each revision p falls by 0.01 where the kind's share of the
groups is at least its target (8.3% easy, 16.7% hard: 25% in the ratio 1 to 2), and rises by 0.01
where it is less, within [0.05, 0.95] as in the published code. What passes is filtered as in `dapo`
(the paper builds on dynamic sampling). Its adaptive batch size is not needed: the coordinator asks
for exactly what is missing. Skipped prompts are used only when the others run out. With fractional
outcomes a group without variance is easy from a mean of 0.5 on. What is sampled follows the base
mixture, refills too, as in `dapo`; p is shared by all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys
from astor_rl.plan import varies
from astor_rl.schedule.baselines.arm import Arm, FloatArray, IntArray, Seen
from astor_rl.schedule.baselines.columns import PromptColumns
from astor_rl.utility.task_utility import UtilitySnapshot

_LEAST_CHANCE = 0.01
_LOWEST, _HIGHEST = 0.05, 0.95


class Greso(Arm):
    """Probabilistic skipping before rollout, filtering after it."""

    picks = True
    filters = True
    pooled = True

    def start(self, tasks: Sequence[str]) -> None:
        """No prompt was visited."""
        self._explore: dict[str, float] = getattr(
            self,
            "_explore",
            {"easy": self._options.greso_easy, "hard": self._options.greso_hard},
        )
        self._streaks: dict[str, PromptColumns] = getattr(self, "_streaks", {})
        for name in tasks:
            keys = self._tasks[name].keys
            self._streaks[name] = PromptColumns(keys, {"easy": 0.0, "hard": 0.0})

    def learn(self, groups: Sequence[Seen]) -> None:
        """Count visits without variance in a row, and steer p."""
        judged = [group for group in groups if group.outcomes]
        seen = {"easy": 0, "hard": 0}
        for group in judged:
            kind = _kind(group.outcomes)
            if kind:
                seen[kind] += 1
            if group.index < 0:
                continue
            streaks = self._streaks[group.task]
            counts = {
                name: float(streaks[name][group.index]) + 1 if name == kind else 0.0
                for name in seen
            }
            streaks.put(group.index, **counts)
        if judged:
            self._steer({name: count / len(judged) for name, count in seen.items()})

    def _steer(self, ratio: Mapping[str, float]) -> None:
        target = self._options.greso_target
        for name, part in (("easy", target / 3), ("hard", target * 2 / 3)):
            move = -self._options.greso_step if ratio[name] >= part else self._options.greso_step
            self._explore[name] = min(max(self._explore[name] + move, _LOWEST), _HIGHEST)

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """The base mixture."""
        return self.mixture

    def chances(self, task: str, prompts: IntArray) -> FloatArray:
        """The probability that a prompt isn't skipped."""
        streaks = self._streaks[task]
        chance = np.ones(len(prompts))
        for name, explore in self._explore.items():
            visits = streaks[name][prompts]
            chance = np.where(visits > 0, np.maximum(explore**visits, _LEAST_CHANCE), chance)
        return chance

    def pick(
        self, task: str, free: IntArray, count: int, rng: np.random.Generator, *, refill: bool
    ) -> IntArray:
        """Go through the prompts in random order, skipping some."""
        shuffled = rng.permutation(free)
        skipped = rng.random(len(shuffled)) >= self.chances(task, shuffled)
        order = np.argsort(skipped, kind="stable")
        return np.asarray(shuffled[order[:count]], dtype=np.int64)

    def keeps(self, task: str, outcomes: Sequence[float]) -> bool:
        """Whether two outcomes differ."""
        return varies(outcomes)

    def terms(self, task: str) -> dict[str, float]:
        """Prompts that may be skipped, of either kind."""
        streaks = self._streaks[task]
        return {f"{name}_prompts": float((streaks[name] > 0).sum()) for name in self._explore}

    def note(self) -> str:
        """The exploration probabilities."""
        return f"p easy {self._explore['easy']:.2f}, p hard {self._explore['hard']:.2f}"

    def own_state(self) -> dict[str, Any]:
        """Both p, and the streaks."""
        streaks = {name: columns.state_dict() for name, columns in self._streaks.items()}
        return {"explore": dict(self._explore), "streaks": streaks}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("GRESO", state, ["explore", "streaks"])
        check_keys("GRESO", state["explore"], self._explore)
        self._explore = dict(state["explore"])
        for name in self._tasks.keys() & state["streaks"].keys():
            self._streaks[name].load_state_dict(state["streaks"][name])


def _kind(outcomes: Sequence[float]) -> str:
    """`easy`, `hard`, or empty for a group with variance."""
    if varies(outcomes):
        return ""
    return "easy" if math.fsum(outcomes) / len(outcomes) >= 0.5 else "hard"
