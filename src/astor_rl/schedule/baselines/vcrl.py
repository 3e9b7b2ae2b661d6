"""VCRL: variance-based curriculum with replay (Jiang et al. 2025, arXiv 2509.19803, section 3).

    p = variance / its largest value;  variance = k (G - k) / (G (G - 1)) for k right answers of G
    largest: G / (4 (G - 1)) for even G, (G + 1) / (4 G) for odd G

The paper's rewards are right or wrong. Of a task whose outcomes lie between, too, no group comes
near that largest value; there the ninth decile of p over the task's last 64 groups stands in for
it. Until it has had eight, every group of such a task passes that varies at all.

Groups with p below kappa leave the batch; prompts of a memory bank take their places and are
sampled anew. Prompts with p of at least kappa enter the bank, with priority p; each later visit
moves it, P <- momentum P + (1 - momentum) p. The bank gives its highest priorities first, and a
prompt at most `vcrl_replays` times in the whole run; where it is empty the batch stays smaller, and
there is one round. Replayed groups pass the same threshold. kappa 0.3 in the first 20 steps and 0.8
after them, momentum 0.9 and two replays are the paper's settings from memory: its text could not be
had to check them, nor what it does where the bank runs dry. Tasks keep the base mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.checks import check_keys, saved_of
from astor_rl.schedule.baselines.arm import Arm, FloatArray, IntArray, Seen
from astor_rl.schedule.baselines.columns import PromptColumns
from astor_rl.utility.potential import group_variance
from astor_rl.utility.task_utility import UtilitySnapshot

_RECENT, _FEWEST, _DECILE = 64, 8, 0.9


def _is_graded(outcomes: Sequence[float]) -> bool:
    return any(0 < outcome < 1 for outcome in outcomes)


def normalised_variance(outcomes: Sequence[float]) -> float:
    """p of a group, in [0, 1]; 0 for fewer than two outcomes."""
    size = len(outcomes)
    variance = group_variance(outcomes)
    if not variance:
        return 0.0
    largest = (size + 1) / (4 * size) if size % 2 else size / (4 * (size - 1))
    return variance / largest


class Vcrl(Arm):
    """Groups of high variance, the others replaced from memory."""

    picks = True
    filters = True

    def start(self, tasks: Sequence[str]) -> None:
        """The bank is empty."""
        self._kappa = self._options.vcrl_threshold
        self._graded: set[str] = getattr(self, "_graded", set())
        self._recent: dict[str, list[float]] = getattr(self, "_recent", {})
        self._recent |= {name: [] for name in tasks}
        self._banks: dict[str, PromptColumns] = getattr(self, "_banks", {})
        for name in tasks:
            keys = self._tasks[name].keys
            self._banks[name] = PromptColumns(keys, {"priority": 0.0, "member": 0.0, "left": 0.0})

    @property
    def rounds(self) -> int:
        """One: what the bank gives."""
        return min(1, super().rounds)

    def learn(self, groups: Sequence[Seen]) -> None:
        """Move priorities, and let prompts in."""
        momentum = self._options.vcrl_momentum
        for group in groups:
            if len(group.outcomes) > 1:
                recent = self._recent[group.task]
                recent.append(normalised_variance(group.outcomes))
                del recent[:-_RECENT]
            if _is_graded(group.outcomes):
                self._graded.add(group.task)
        for group in groups:
            if group.index < 0 or len(group.outcomes) < 2:
                continue
            bank, value = self._banks[group.task], self._value(group.task, group.outcomes)
            if bank["member"][group.index]:
                old = float(bank["priority"][group.index])
                bank.put(group.index, priority=momentum * old + (1 - momentum) * value)
            elif value >= self._kappa:
                replays = float(self._options.vcrl_replays)
                bank.put(group.index, priority=value, member=1.0, left=replays)

    def _value(self, task: str, outcomes: Sequence[float]) -> float:
        """p, of a task with outcomes between right and wrong in units of its own."""
        value = normalised_variance(outcomes)
        if not value or not (task in self._graded or _is_graded(outcomes)):
            return value
        recent = self._recent[task]
        if len(recent) < _FEWEST:
            return 1.0
        unit = float(np.quantile(recent, _DECILE))
        return min(1.0, value / unit) if unit else 1.0

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """The base mixture; sets kappa."""
        early = step < self._options.vcrl_early_steps
        options = self._options
        self._kappa = options.vcrl_threshold if early else options.vcrl_late_threshold
        return self.mixture

    def keeps(self, task: str, outcomes: Sequence[float]) -> bool:
        """Whether p is at least kappa."""
        return self._value(task, outcomes) >= self._kappa

    def replacements(self, task: str, free: IntArray) -> int:
        """Prompts that the bank can give."""
        return int((self._banks[task]["left"][free] > 0).sum())

    def pick(
        self, task: str, free: IntArray, count: int, rng: np.random.Generator, *, refill: bool
    ) -> IntArray:
        """Uniformly; refills from the bank."""
        shuffled = rng.permutation(free)
        if refill:
            bank = self._banks[task]
            priority = np.where(bank["left"][shuffled] > 0, bank["priority"][shuffled], -1.0)
            shuffled = shuffled[np.argsort(-priority, kind="stable")]
            for index in shuffled[:count].tolist():
                left = max(0.0, float(bank["left"][index]) - 1)
                # Spent prompts stay members: a later visit must not let them in anew.
                bank.put(index, left=left)
        return np.asarray(shuffled[:count], dtype=np.int64)

    def terms(self, task: str) -> dict[str, float]:
        """The bank's size."""
        return {"bank": float((self._banks[task]["left"] > 0).sum())}

    def note(self) -> str:
        """The threshold."""
        return f"groups of normalised variance below {self._kappa:g} are replaced from the bank"

    def own_state(self) -> dict[str, Any]:
        """kappa, the banks, and what graded tasks are measured by."""
        return {
            "kappa": self._kappa,
            "banks": {name: columns.state_dict() for name, columns in self._banks.items()},
            "graded": sorted(self._graded),
            "recent": {name: list(values) for name, values in self._recent.items()},
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        check_keys("VCRL", state, ["kappa", "banks", "graded", "recent"])
        self._kappa = float(state["kappa"])
        self._graded = self._tasks.keys() & set(state["graded"])
        self._recent = {n: list(v) for n, v in saved_of(state["recent"], self._recent).items()}
        for name in self._tasks.keys() & state["banks"].keys():
            self._banks[name].load_state_dict(state["banks"][name])
