"""Prompts from easy to hard: competence-based curriculum (Platanios et al. 2019, arXiv 1903.09848).

Root-p competence, section 3.2:  c(t) = min(1, (t (1 - c0^p) / T + c0^p)^(1/p)),  linear with p = 1;
p = 2 is the default. A task's prompts are sorted by difficulty; at
step t they are drawn uniformly from the easiest share c(t). Tasks keep the base mixture. T is
`baseline.horizon`; without it it is the whole run. From memory, as the text could not be had: the
paper prefers p = 2, and ends T about where training without a curriculum comes to nine tenths of
its final score. Difficulty is
`TaskSpec.difficulty`; a task without it has its prompts drawn uniformly. ASTOR's own Curriculum arm
is not public: this is one of its two plain forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from astor_rl.checks import check_keys
from astor_rl.schedule.baselines.arm import Arm, FloatArray, IntArray
from astor_rl.utility.task_utility import UtilitySnapshot


class CurriculumPrompts(Arm):
    """The easiest share of each task's prompts, growing with the steps."""

    picks = True
    _competence = 0.0

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """The base mixture; sets the competence of the revision."""
        root, least = self._options.competence_root, self._options.competence
        start = least**root
        grown = (start + self.progress(step) * (1 - start)) ** (1 / root)
        self._competence = min(1.0, max(least, grown))  # a large root underflows
        return self.mixture

    def pick(
        self, task: str, free: IntArray, count: int, rng: np.random.Generator, *, refill: bool
    ) -> IntArray:
        """Uniformly among the easiest; the next easiest where too few of them are free."""
        known = self._tasks[task].difficulty
        if known is None:
            return super().pick(task, free, count, rng, refill=refill)
        difficulty = np.asarray(known, dtype=np.float64)
        easiest = np.argsort(difficulty, kind="stable")
        is_open = np.zeros(len(difficulty), dtype=bool)
        # Rounded first: 0.6 of ten prompts are six, whatever the last digit of 0.6 says.
        is_open[easiest[: math.ceil(round(self._competence * len(difficulty), 9))]] = True
        shuffled = rng.permutation(free)
        # Open prompts in random order, then the others from the easiest on.
        rank = np.where(is_open[shuffled], -np.inf, difficulty[shuffled])
        return np.asarray(shuffled[np.argsort(rank, kind="stable")[:count]], dtype=np.int64)

    def terms(self, task: str) -> dict[str, float]:
        """The share of its prompts that is open."""
        return {"competence": self._competence}

    def note(self) -> str:
        """Says so."""
        return f"the easiest {self._competence:.0%} of each task's prompts{self.unranked()}"

    def own_state(self) -> dict[str, Any]:
        """The revision's competence."""
        return {"competence": self._competence}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        check_keys("the curriculum of prompts", state, ["competence"])
        self._competence = float(state["competence"])
