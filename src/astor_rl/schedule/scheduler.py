"""Module 1: from utilities to the prompts of a batch. Quotas first, then draws inside each task.

The scheduler owns what must outlive a step: the rounding carry, the warm-up latch, each task's
token cost and its book of prompts. Its clock is the policy revision.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_keys
from astor_rl.errors import PlanError, StateError
from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.arm import Arm, Seen
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.schedule.baselines.registry import make_arm
from astor_rl.schedule.flights import Flight
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.prompts import Draw, PromptBook, Rule
from astor_rl.schedule.quota import (
    IntArray,
    ScheduleOptions,
    ShareStages,
    apportion,
    mix_floor,
    utility_shares,
)
from astor_rl.utility.task_utility import UtilitySnapshot

FloatArray = NDArray[np.float64]
Phase = Literal["warmup", "scheduled"]


@dataclass(frozen=True, slots=True)
class Quotas:
    """How many prompts each task gets, and why; arrays are [K] in the order of the tasks.

    Attributes:
        stages: shares as the schedule's parts are switched on one after another.
        rounded: share after rounding to whole prompts, were every task's supply unlimited.
        share: share of the plan.
        prompts: prompts in the plan.
        wanted: fractional prompts before rounding and availability.
        terms, note: why, in the words of the published scheduler of `schedule.method`.
    """

    stages: ShareStages
    rounded: FloatArray
    share: FloatArray
    prompts: IntArray
    wanted: FloatArray
    terms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""


@dataclass(slots=True)
class _Course:
    """A task's running state beside its prompts: rounding carry, and decayed token sums."""

    carry: float = 0.0
    revision: int = -1
    groups: float = 0.0
    tokens: float = 0.0


class Scheduler:
    """Quotas and prompt draws for a set of tasks, in the order of `tasks`."""

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        options: ScheduleOptions,
        prompts: PromptOptions,
        *,
        cost_half_life: float,
        baseline: BaselineOptions | None = None,
    ) -> None:
        self._options = options
        self._arm = make_arm(options.method, tasks, baseline or BaselineOptions())
        self._prompt_options = prompts
        self._cost_half_life = cost_half_life
        self._specs = {spec.name: spec for spec in tasks}
        self._books = {spec.name: PromptBook(spec.name, spec.keys, prompts) for spec in tasks}
        self._courses = {spec.name: _Course() for spec in tasks}
        self._first_revision: int | None = None
        self._scheduled = False

    def update_tasks(self, tasks: Sequence[TaskSpec]) -> None:
        """Take the tasks' new list, in their new order; what is known of the others stays."""
        self._specs = {spec.name: spec for spec in tasks}
        for spec in tasks:
            if spec.name not in self._books:
                self._books[spec.name] = PromptBook(spec.name, spec.keys, self._prompt_options)
                self._courses[spec.name] = _Course()
        if self._arm:
            self._arm.update_tasks(tasks)

    @property
    def arm(self) -> Arm | None:
        """The published scheduler that decides instead, if one does."""
        return self._arm

    def book(self, task: str) -> PromptBook:
        """The prompts of a task."""
        return self._books[task]

    @property
    def phase(self) -> Phase:
        """`warmup` while the base mixture is used because tasks are not measured yet."""
        return "scheduled" if self._scheduled or self._arm else "warmup"

    def advance(self, revision: int, groups: Mapping[str, int]) -> None:
        """End the warm-up when every task with prompts is measured, or it has lasted too long.

        It never starts again: a task that is added later counts as the others' mean until it is
        measured.

        Args:
            revision: the policy revision of the next plan.
            groups: groups with at least two valid rollouts observed so far, by task.
        """
        if self._first_revision is None:
            self._first_revision = revision
        measured = all(
            groups[name] >= self._options.min_groups
            for name, book in self._books.items()
            if book.size
        )
        over = revision - self._first_revision >= self._options.warmup_steps
        self._scheduled = self._scheduled or measured or over

    def stages(self, snapshot: UtilitySnapshot) -> ShareStages:
        """q' and how it came about, without rounding and availability."""
        ratio = np.array([spec.ratio for spec in self._specs.values()])
        mixture = ratio / ratio.sum()
        if self._arm:
            return ShareStages.by_method(mixture, self._arm.shares_at(snapshot))
        if not (self._scheduled and self._options.task_scheduling):
            return ShareStages.constant(mixture)
        tasks = [snapshot.tasks[name] for name in self._specs]
        potential, potential_se, utility, utility_se = np.array(
            [(t.potential, t.potential_se, t.utility, t.utility_se) for t in tasks]
        ).T
        tau = self._options.tau
        if not self._options.noise_correction:
            potential_se, utility_se = np.zeros_like(potential_se), np.zeros_like(utility_se)
        by_utility = utility_shares(mixture, utility, utility_se, tau=tau)
        by_cost = by_utility
        if self._options.cost_aware:
            by_cost = utility_shares(mixture, utility, utility_se, tau=tau, cost=self._costs())
        return ShareStages(
            base=mixture,
            method=mixture,
            potential=utility_shares(mixture, potential, potential_se, tau=tau),
            synergy=by_utility,
            cost=by_cost,
            floor=mix_floor(by_cost, mixture, self._options.mix),
        )

    def drawable_shares(self, snapshot: UtilitySnapshot) -> FloatArray:
        """q' over the tasks that have prompts; 0 for the others. [K], sums to 1 if any has."""
        size = np.array([self._books[name].size for name in self._specs])
        shares = np.where(size > 0, self.stages(snapshot).floor, 0.0)
        return shares / shares.sum() if shares.any() else shares

    def quotas(
        self, snapshot: UtilitySnapshot, total: int, available: Mapping[str, int] | None
    ) -> Quotas:
        """Share out `total` prompts by utility; the rounding error is carried to the next call.

        Args:
            snapshot: the utilities.
            total: prompts in the plan.
            available: at most this many prompts, by task; tasks not named are limited only by
                their free prompts.

        Raises:
            PlanError: fewer than `total` prompts are available.
        """
        stages = self.stages(snapshot)
        carry = np.array([self._courses[name].carry for name in self._specs])
        caps = self._caps(available or {})
        if self._arm and self._arm.strict:
            caps = np.where(stages.floor > 0, caps, 0.0)
        self._check_held(total, caps)
        free = apportion(stages.floor, total, carry)
        real = apportion(stages.floor, total, carry, caps)
        for name, owed in zip(self._specs, real.carry.tolist(), strict=True):
            self._courses[name].carry = owed
        return Quotas(
            stages,
            free.counts / total,
            real.counts / total,
            real.counts,
            stages.floor * total,
            **self._words(),
        )

    def _words(self) -> dict[str, Any]:
        """The arm's own account of its decision."""
        if self._arm is None:
            return {}
        note = f"{self._options.method}: {self._arm.note()}" if self._arm.note() else ""
        return {"terms": {name: self._arm.terms(name) for name in self._specs}, "note": note}

    def requested(self, need: Mapping[str, int]) -> Quotas:
        """Exactly what the caller asked for, as quotas on which no part of the schedule acted."""
        counts = np.array([need.get(name, 0) for name in self._specs], dtype=np.int64)
        share = counts / counts.sum()
        wanted = counts.astype(np.float64)
        stages = ShareStages.constant(share)
        return Quotas(stages, share, share, counts, wanted, **self._words())

    def _caps(self, available: Mapping[str, int]) -> FloatArray:
        return np.array([self._supply(name, available) for name in self._specs])

    def _supply(self, task: str, available: Mapping[str, int]) -> float:
        """Prompts that may be drawn of a task; without limit when repeats are allowed."""
        book, limit = self._books[task], available.get(task, math.inf)
        if self._options.allow_repeats:
            return math.inf if limit > 0 and book.size else 0.0
        return float(min(limit, book.free))

    def check_supply(self, need: Mapping[str, int], available: Mapping[str, int] | None) -> None:
        """Check that every task can deliver what is asked of it, before anything is drawn.

        Raises:
            PlanError: a task can't; it is named with what it has.
        """
        for name, count in need.items():
            supply = self._supply(name, available or {})
            if count > supply:
                raise PlanError(
                    f"task {name}: {count} prompts are needed and {supply:.0f} of "
                    f"{self._books[name].size} are available; ask for fewer, finish plans in "
                    "flight, or set schedule.allow_repeats"
                )

    def _check_held(self, total: int, caps: FloatArray) -> None:
        """Say it when prompts are missing because plans in flight hold them."""
        held = sum(book.size - book.free for book in self._books.values())
        if held and caps.sum() < total:
            raise PlanError(
                f"{total} prompts are wanted and {caps.sum():.0f} are available; plans in flight "
                f"hold {held}: finish them with observe_groups and observe_update, or forget "
                "them; else lower the batch, add prompts, or set schedule.allow_repeats"
            )

    def keeps(self, task: str, outcomes: Sequence[float]) -> bool:
        """Whether a group enters the update."""
        return self._arm is None or not self._arm.filters or self._arm.keeps(task, outcomes)

    def shortfall(self, flights: Sequence[Flight]) -> dict[str, int]:
        """Prompts by task that a step's plan and its refills lack; see `Coordinator.shortfall`."""
        arm = self._arm
        if arm is None or not arm.filters or len(flights) > arm.rounds:
            return {}
        missing = Counter(item.task for item in flights[0].plan.items)
        for flight in flights:
            missing.subtract(flight.plan.items[slot].task for slot in flight.accepted())
        most = {
            task: min(
                self._supply(task, {}), arm.replacements(task, self._books[task].free_indices())
            )
            for task in self._specs
        }
        if arm.pooled:
            need = self._by_mixture(arm.mixture, missing.total(), flights, most)
        else:
            need = {task: int(min(count, most.get(task, 0.0))) for task, count in missing.items()}
        return {task: count for task, count in need.items() if count > 0}

    def _by_mixture(
        self,
        mixture: FloatArray,
        missing: int,
        flights: Sequence[Flight],
        most: Mapping[str, float],
    ) -> dict[str, int]:
        """So many more prompts that what is sampled of tasks with prompts follows the mixture.

        A task that has none left owes nothing: else its debt would go to others as it is, the same
        for small ones as for large ones.
        """
        caps = np.array(list(most.values()))
        shares = np.where(caps > 0, mixture, 0.0)
        if not shares.any():
            return {}
        shares = shares / shares.sum()
        count = Counter(item.task for flight in flights for item in flight.plan.items)
        sampled = np.where(caps > 0, [count[task] for task in self._specs], 0)
        owed = sampled.sum() * shares - sampled
        counts = apportion(shares, int(min(missing, caps.sum())), owed, caps).counts
        return dict(zip(self._specs, counts.tolist(), strict=True))

    def draw(
        self,
        task: str,
        count: int,
        *,
        revision: int,
        rng: np.random.Generator,
        refill: bool = False,
    ) -> Draw:
        """Draw a task's prompts and mark them as in flight.

        Args:
            task, count: what.
            revision: the policy revision, to age evidence by.
            rng: the coordinator's generator.
            refill: the caller named the task's number of prompts (`need`).
        """
        if self._arm and self._arm.picks:
            return self._pick(self._arm, task, count, rng, refill=refill)
        evenly: Rule = "epochs" if self._options.epochs else "chance"
        by_utility = self._options.prompt_scheduling and not self._arm
        return self._books[task].draw(
            count,
            revision=revision,
            rng=rng,
            rule="utility" if by_utility else evenly,
            allow_repeats=self._options.allow_repeats,
        )

    def _pick(
        self, arm: Arm, task: str, count: int, rng: np.random.Generator, *, refill: bool
    ) -> Draw:
        """The prompts that the arm chooses; free ones first, repeats where they are allowed."""
        book = self._books[task]
        parts: list[Draw] = []
        pool = book.free_indices()
        while count:
            size = min(count, len(pool))
            if size:
                parts.append(book.take(arm.pick(task, pool, size, rng, refill=refill)))
            count -= size
            pool = np.arange(book.size)
        return Draw(
            tuple(row for part in parts for row in part.rows),
            tuple(key for part in parts for key in part.keys),
            tuple(chance for part in parts for chance in part.propensities),
        )

    def observe(
        self, task: str, row: int, revision: int, outcomes: Sequence[float], tokens: int
    ) -> None:
        """Take in one group: its prompt's evidence (row -1: the prompt is gone), and its cost."""
        if self._arm:
            index = self._books[task].index(row) if row >= 0 else -1
            self._arm.observe(Seen(revision, task, index, tuple(outcomes)))
        if row >= 0:
            self._books[task].observe(row, revision, outcomes)
        if tokens > 0:
            course = self._courses[task]
            newest = max(course.revision, revision)
            decay = 2.0 ** (-(newest - course.revision) / self._cost_half_life)
            weight = 2.0 ** (-(newest - revision) / self._cost_half_life)
            course.groups = course.groups * decay + weight
            course.tokens = course.tokens * decay + weight * tokens
            course.revision = newest

    def tokens_per_prompt(self, task: str) -> float | None:
        """Recent completion tokens of one group; None while none were reported."""
        course = self._courses[task]
        return course.tokens / course.groups if course.groups > 0 else None

    def carry(self, task: str) -> float:
        """Prompts that rounding still owes the task (negative: it got ahead)."""
        return self._courses[task].carry

    def _costs(self) -> FloatArray:
        """Tokens a prompt, [K]; a task without figures costs what the others do on average."""
        costs = [self.tokens_per_prompt(name) for name in self._specs]
        known = [cost for cost in costs if cost is not None]
        usual = math.fsum(known) / len(known) if known else 1.0
        return np.array([usual if cost is None else cost for cost in costs])

    def state_dict(self) -> dict[str, Any]:
        """Carry, costs, the warm-up latch and every task's prompts."""
        names = [each.name for each in fields(_Course)]
        return {
            "method": self._options.method,
            **({"arm": self._arm.state_dict()} if self._arm else {}),
            "first_revision": self._first_revision,
            "scheduled": self._scheduled,
            "courses": {
                task: {name: getattr(course, name) for name in names}
                for task, course in self._courses.items()
            },
            "books": {task: book.state_dict() for task, book in self._books.items()},
        }

    def load_state_dict(
        self, state: Mapping[str, Any], *, on_change: Literal["error", "adapt"] = "error"
    ) -> dict[str, IntArray]:
        """Restore `state_dict()`.

        With `adapt`, tasks that the state doesn't know start afresh, tasks that are gone are
        dropped, and prompts are looked up again where the data changed.

        Returns:
            For each task, each saved row's row now, -1 when its prompt is gone.

        Raises:
            StateError: entries differ, it is of another `schedule.method`, or tasks or prompts
                differ and `on_change` is `error`.
        """
        method = state.get("method", self._options.method)
        if method != self._options.method:
            raise StateError(
                f"schedule.method is {self._options.method!r} and the saved state is of "
                f"{method!r}; continue with the method that the run began with"
            )
        expected = ["method", "first_revision", "scheduled", "courses", "books"]
        check_keys("schedule", state, [*expected, *(["arm"] if self._arm else [])])
        known = self._books if on_change == "error" else self._books.keys() & state["books"].keys()
        names = [each.name for each in fields(_Course)]
        if on_change == "error":
            check_keys("schedule's tasks", state["books"], self._books)
        rows = {}
        for task in known:
            check_keys(f"schedule of {task}", state["courses"][task], names)
            rows[task] = self._books[task].load_state_dict(
                state["books"][task], on_change=on_change
            )
            self._courses[task] = _Course(**state["courses"][task])
        self._first_revision = state["first_revision"]
        self._scheduled = bool(state["scheduled"])
        if self._arm:
            self._arm.load_state_dict(state["arm"], adapt=on_change == "adapt")
        return rows
