"""Fixed mixtures: Joint Learning in its two usual forms, and one task alone.

No paper: these are what ASTOR (arXiv 2605.06111) and every scheduler below compare with. Joint
Learning by the run's own `ratio`s is `dapo` without its filter, or `astor` with
`schedule.task_scheduling = false` and `schedule.prompt_scheduling = false`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from astor_rl.errors import ConfigError
from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.arm import Arm, FloatArray
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.utility.task_utility import UtilitySnapshot


class Uniform(Arm):
    """Joint Learning: 1 / K for every task, whatever its ratio and size."""

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """1 / K."""
        return np.full(len(self._tasks), 1 / len(self._tasks))

    def note(self) -> str:
        """Says so."""
        return f"equal shares of {len(self._tasks)} tasks"


class Proportional(Arm):
    """Joint Learning: shares proportional to the tasks' numbers of prompts."""

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """n_k / sum of n; the base mixture when no task has a prompt."""
        sizes = np.array([len(spec.keys) for spec in self._tasks.values()], dtype=np.float64)
        if not sizes.any():
            return self.mixture  # for the scheduler to say that there are no prompts
        return np.asarray(sizes / sizes.sum(), dtype=np.float64)

    def terms(self, task: str) -> dict[str, float]:
        """The task's size."""
        return {"examples": float(len(self._tasks[task].keys))}

    def note(self) -> str:
        """Says so."""
        return "shares proportional to the tasks' examples"


class Single(Arm):
    """A specialist: one task gets every prompt; the others are only evaluated.

    Raises:
        ConfigError: `baseline.task` is none of the tasks.
    """

    strict = True

    def __init__(self, tasks: Sequence[TaskSpec], options: BaselineOptions) -> None:
        names = [spec.name for spec in tasks]
        if options.task not in names:
            raise ConfigError(
                f"baseline.task is {options.task!r}; with schedule.method = 'single' it must be "
                f"one of {', '.join(names)}"
            )
        super().__init__(tasks, options)

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """1 for the task, 0 for the others."""
        return np.array([float(name == self._options.task) for name in self._tasks])

    def note(self) -> str:
        """Says which."""
        return f"specialist: {self._options.task} only"
