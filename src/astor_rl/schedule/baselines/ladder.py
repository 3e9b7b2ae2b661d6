"""Tasks one after another: in a given order, or from easy to hard by base pass rate.

`curriculum` is the Curriculum Learning that ASTOR (arXiv 2605.06111) compares with; its rule is
not public, so this is the plain form: T steps in K stages of equal length, stage
floor(t K / T) trains one task (the `classic` schedule of E2H's code, arXiv 2506.06632), or with
`baseline.cumulative` all tasks up to it. The order is `baseline.order`, or falling mean outcome
during the first `baseline.measure_steps` revisions, in which tasks have equal shares. `sequential`
is the same without measuring: the tasks in the order given, by name when none is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys, saved_of
from astor_rl.errors import ConfigError
from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.arm import Arm, FloatArray, Seen
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.utility.task_utility import UtilitySnapshot


class Ladder(Arm):
    """Tasks on rungs, easiest first.

    Raises:
        ConfigError: `baseline.order` doesn't name every task once.
    """

    def __init__(self, tasks: Sequence[TaskSpec], options: BaselineOptions) -> None:
        names = [spec.name for spec in tasks]
        if options.order and sorted(options.order) != sorted(names):
            raise ConfigError(
                f"baseline.order is {list(options.order)}; it must name each of "
                f"{', '.join(names)} once"
            )
        self._sums: dict[str, list[float]] = {}
        self._order: list[str] = list(options.order)
        self._step = 0
        super().__init__(tasks, options)

    def start(self, tasks: Sequence[str]) -> None:
        """A task that comes later stands on the top rung."""
        self._sums.update({name: [0.0, 0.0] for name in tasks})
        if self._order:
            self._order += [name for name in tasks if name not in self._order]

    def learn(self, groups: Sequence[Seen]) -> None:
        """Sum up outcomes while the order is open."""
        if self._order:
            return
        for group in groups:
            self._sums[group.task][0] += math.fsum(group.outcomes)
            self._sums[group.task][1] += len(group.outcomes)

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """Equal shares while base pass rates are measured, then by rung."""
        self._step = step
        progress = self.progress(step)
        if not self._order:
            if step < self._options.measure_steps:
                return np.full(len(self._tasks), 1 / len(self._tasks))
            # A task without a judged rollout counts as the hardest; ties go by name.
            self._order = sorted(self._tasks, key=lambda name: (-self._rate(name), name))
        by_rung = dict(zip(self._order, self.rungs(progress).tolist(), strict=True))
        return np.array([by_rung[name] for name in self._tasks])

    def _rate(self, task: str) -> float:
        total, count = self._sums[task]
        return total / count if count else 0.0

    @abstractmethod
    def rungs(self, progress: float) -> FloatArray:
        """Shares from the lowest rung to the highest, [K], at t / T = `progress`."""

    def terms(self, task: str) -> dict[str, float]:
        """Its rung, and the base pass rate where that was measured."""
        found = {"rung": float(self._order.index(task))} if self._order else {}
        return found | ({"base_outcome": self._rate(task)} if self._sums[task][1] else {})

    def note(self) -> str:
        """Where the run stands."""
        at = f"step {self._step} of {self._options.horizon}"
        if not self._order:
            return f"{at}: base pass rates are measured at equal shares"
        return f"{at}, easy to hard: {', '.join(self._order)}"

    def own_state(self) -> dict[str, Any]:
        """Sums of the measuring steps, and the order."""
        sums = {name: list(values) for name, values in self._sums.items()}
        return {"sums": sums, "order": list(self._order), "step": self._step}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore; tasks that are new stand on top."""
        check_keys("the tasks' order", state, ["sums", "order", "step"])
        self._sums = {n: list(v) for n, v in saved_of(state["sums"], self._sums).items()}
        kept = [name for name in state["order"] if name in self._tasks]
        self._order = kept + [name for name in self._tasks if kept and name not in kept]
        self._step = int(state["step"])


class Curriculum(Ladder):
    """Stages from the easiest task to the hardest."""

    def rungs(self, progress: float) -> FloatArray:
        """One stage a task; the stages before it too with `baseline.cumulative`."""
        count = len(self._tasks)
        stage = min(int(progress * count), count - 1)
        shares = np.zeros(count)
        shares[0 if self._options.cumulative else stage : stage + 1] = 1.0
        return np.asarray(shares / shares.sum(), dtype=np.float64)


class Sequential(Curriculum):
    """Stages in the order of `baseline.order`, or by name."""

    def __init__(self, tasks: Sequence[TaskSpec], options: BaselineOptions) -> None:
        super().__init__(tasks, options)
        self._order = self._order or list(self._tasks)

    def note(self) -> str:
        """Where the run stands."""
        return f"step {self._step} of {self._options.horizon}, in turn: {', '.join(self._order)}"
