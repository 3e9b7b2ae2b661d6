"""What every published scheduler has in common: an `Arm` stands where Module 1 stands.

An arm gives the tasks their shares of a batch, may choose the prompts itself, may refuse groups
(the engine then asks for others), and learns from outcomes. The rest is the scheduler's: whole
prompts, supply, plans in flight, receipts. Where a paper samples the task of each prompt at
random, shares are rounded with a carry instead: the expectation is the same, the noise is gone.
Where it has one pool of prompts, each task has its own state, and shares are the base mixture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_keys
from astor_rl.plan import TaskSpec, varies
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.utility.task_utility import UtilitySnapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """One finished group.

    Attributes:
        revision: the plan's.
        task: its task.
        index: the prompt's place in the task's keys; -1 when the prompt is gone.
        outcomes: of the valid rollouts, each in [0, 1]; may be empty.
    """

    revision: int
    task: str
    index: int
    outcomes: tuple[float, ...]


def absolute_advantages(outcomes: Sequence[float]) -> list[float]:
    """|o - mean| / std of a group, the population deviation; 0 for equal outcomes.

    For outcomes of 0 and 1 with mean p their mean is 2 sqrt(p (1 - p)). Format rewards are no
    part of it: the coordinator never sees them.
    """
    if not varies(outcomes):
        return [0.0] * len(outcomes)
    mean = math.fsum(outcomes) / len(outcomes)
    spread = math.sqrt(math.fsum((o - mean) ** 2 for o in outcomes) / len(outcomes))
    return [abs(outcome - mean) / spread for outcome in outcomes]


def softmax(logits: FloatArray) -> FloatArray:
    """exp(logits) / sum, [K]."""
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum(), dtype=np.float64)


class Arm(ABC):
    """A published scheduler.

    Args:
        tasks: in the scheduler's order.
        options: `[baseline]`.
    """

    picks: ClassVar[bool] = False
    """It chooses the prompts itself (`pick`); else they are drawn evenly (`schedule.epochs`)."""
    filters: ClassVar[bool] = False
    """It refuses groups (`keeps`), and asks for others in their place."""
    pooled: ClassVar[bool] = False
    """Refused groups of all tasks are one count, asked for by the base mixture."""
    strict: ClassVar[bool] = False
    """A task whose share is 0 gets no prompt even when the others run out of theirs."""

    def __init__(self, tasks: Sequence[TaskSpec], options: BaselineOptions) -> None:
        self._options = options
        self._tasks = {spec.name: spec for spec in tasks}
        self._fresh: list[Seen] = []
        self._first: int | None = None
        self._revision: int | None = None
        self._current = np.zeros(0)
        self.start(list(self._tasks))

    def update_tasks(self, tasks: Sequence[TaskSpec]) -> None:
        """Take the tasks' new list; nothing is known of those that are new."""
        new = [spec.name for spec in tasks if spec.name not in self._tasks]
        self._tasks = {spec.name: spec for spec in tasks}
        self._revision = None
        self.start(new)

    @property
    def mixture(self) -> FloatArray:
        """The base mixture: `ratio` of the tasks, normalised, [K]."""
        ratio = np.array([spec.ratio for spec in self._tasks.values()])
        return np.asarray(ratio / ratio.sum(), dtype=np.float64)

    def shares_at(self, snapshot: UtilitySnapshot) -> FloatArray:
        """Shares for all plans of the snapshot's revision, [K], summing to 1."""
        revision = snapshot.revision
        if self._revision is None or revision > self._revision:
            if self._first is None:
                self._first = revision
            # Sorted, so that the order in which groups arrived leaves no trace.
            groups, self._fresh = sorted(self._fresh), []
            if groups:
                self.learn(groups)
            self._current = self.shares(revision - self._first, snapshot)
            self._revision = revision
        return self._current

    def observe(self, group: Seen) -> None:
        """Keep a group for the next revision's shares."""
        self._fresh.append(group)

    def progress(self, step: int) -> float:
        """t / T in [0, 1]; `make_arm` made sure that T is known."""
        return min(1.0, step / (self._options.horizon or 1))

    def start(self, tasks: Sequence[str]) -> None:  # noqa: B027 - arms without state need none
        """Make room for what is learnt of these tasks."""

    def learn(self, groups: Sequence[Seen]) -> None:  # noqa: B027 - nor do they learn
        """Take in the groups that were observed since the last revision's shares."""

    @abstractmethod
    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """Shares of the tasks, [K], summing to 1.

        Args:
            step: t, revisions since the first.
            snapshot: utilities, for arms that read gradients' cosines.
        """

    def pick(
        self, task: str, free: IntArray, count: int, rng: np.random.Generator, *, refill: bool
    ) -> IntArray:
        """Choose `count` different prompts among `free` (places in the task's keys)."""
        return np.asarray(rng.choice(free, size=count, replace=False), dtype=np.int64)

    def keeps(self, task: str, outcomes: Sequence[float]) -> bool:
        """Whether a group enters the update."""
        return True

    @property
    def rounds(self) -> int:
        """Refills of one step, at most."""
        return self._options.max_rounds

    def replacements(self, task: str, free: IntArray) -> float:
        """Prompts that the rule has for the places of refused groups; infinite: any will do.

        The scheduler knows the supply: with `schedule.allow_repeats` there is one without free
        prompts.
        """
        return math.inf

    def terms(self, task: str) -> dict[str, float]:
        """What decided this task's prompts, for the receipt; names are the arm's own."""
        return {}

    def note(self) -> str:
        """The decision in a few words, for the receipt."""
        return ""

    def unranked(self) -> str:
        """Words on the tasks whose prompts' difficulty is unknown; empty when there are none."""
        names = [name for name, spec in self._tasks.items() if spec.difficulty is None]
        return f"; difficulty unknown, so drawn uniformly: {', '.join(names)}" if names else ""

    def own_state(self) -> dict[str, Any]:
        """What the arm has learnt: plain values and numpy arrays, a copy."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Restore `own_state()`; entries of tasks that are gone are dropped.

        Raises:
            StateError: entries are missing or unknown.
        """
        check_keys("the schedule's method", state, ())

    def state_dict(self) -> dict[str, Any]:
        """Everything that later plans depend on."""
        return {
            "first": self._first,
            "revision": self._revision,
            "current": self._current.copy(),
            "fresh": [
                [s.revision, s.task, s.index, list(s.outcomes), self._key(s)] for s in self._fresh
            ],
            "own": self.own_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, adapt: bool) -> None:
        """Restore `state_dict()`.

        Args:
            state: from an arm of the same kind.
            adapt: tasks or prompts may have changed: what is known of others is dropped, and
                the shares of the revision are made again.

        Raises:
            StateError: entries differ.
        """
        check_keys(
            "the schedule's method",
            state,
            ["first", "revision", "current", "fresh", "own"],
        )
        self.load_own_state(state["own"])
        self._first, self._revision = state["first"], state["revision"]
        self._current = np.array(state["current"], dtype=np.float64)
        fresh = [entry for entry in state["fresh"] if entry[1] in self._tasks]
        places = self._places(fresh) if adapt else {}
        self._fresh = [
            Seen(
                revision,
                task,
                places.get((task, *key), -1) if adapt else index,
                tuple(outcomes),
            )
            for revision, task, index, outcomes, *key in fresh
        ]
        if adapt:
            self._revision = None

    def _key(self, group: Seen) -> str:
        """Its prompt's key; empty when the prompt is gone."""
        return self._tasks[group.task].keys[group.index] if group.index >= 0 else ""

    def _places(self, fresh: Sequence[Sequence[Any]]) -> dict[tuple[str, str], int]:
        """Where the tasks with saved groups have their prompts now, by task and key."""
        return {
            (task, key): place
            for task in {entry[1] for entry in fresh}
            for place, key in enumerate(self._tasks[task].keys)
        }
