"""The coordinator: one utility snapshot decides the next batch and each task's KL coefficient.

    plan                  snapshot -> quotas -> prompts -> KL coefficients, with a receipt
    observe_groups        the rewards, as they come
    observe_update        what the optimiser's step measured

It runs inside any trainer: numpy and the standard library only, no clock, no files. The mathematics
is in docs/method.md, and in code in `utility/`, `schedule/` and `calibrate/`.

**Determinism.** The same seed, tasks and observations give the same plans. The order of the tasks
doesn't matter (they are kept by name), nor does the order in which groups arrive, and plans end,
between two calls of `plan` or `metrics`: they are taken in by plan and slot. The clock is the
policy revision. The snapshot is taken at the first plan of a revision and serves all plans of that
revision, so a refill is drawn by the same utilities and gets the same coefficients as the batch it
completes.

**Life of a plan.** It is in flight from `plan` until all its slots are observed and its update is,
or until `forget`. The prompts of plans in flight are not drawn again unless repeats are allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from astor_rl.calibrate.kl import Calibrator, TaskCalibration
from astor_rl.checks import check_choice, check_count, check_keys, saved_of
from astor_rl.coordinator_options import CoordinatorOptions as CoordinatorOptions
from astor_rl.errors import PlanError, StateError
from astor_rl.plan import GroupOutcome, Receipt, StepPlan, TaskSpec, UpdateStats
from astor_rl.receipt import ANEW_NOTE, GIVEN_NOTE, adaptation_notes, explain, task_figures
from astor_rl.schedule.boundary import (
    UPDATE_FIGURES,
    check_request,
    checked_group,
    checked_stats,
    checked_tasks,
)
from astor_rl.schedule.flights import Flights, plan_items
from astor_rl.schedule.scheduler import Quotas, Scheduler
from astor_rl.utility.potential import Potential
from astor_rl.utility.synergy import Synergy
from astor_rl.utility.task_utility import UtilitySnapshot, take_snapshot

STATE_VERSION = 2
MAX_IN_FLIGHT = 256
"""Plans that may be in flight at once; more means that an engine forgot to close them."""


class Coordinator:
    """Plans batches and learns from what became of them.

    Args:
        tasks: at least one; names are unique.
        prompts_per_step: B, prompts a plan.
        options: see `CoordinatorOptions`.
        seed: of the generator behind draws and half-batch splits; part of the state.
        refills: the engine asks `shortfall` and trains on what is `accepted`.

    Raises:
        ConfigError: no task, a repeated name, or a value out of its range.
        CapabilityError: `schedule.method` refuses groups, and the engine doesn't refill.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        *,
        prompts_per_step: int,
        options: CoordinatorOptions | None = None,
        seed: int = 0,
        refills: bool = False,
    ) -> None:
        self._tasks = checked_tasks(tasks)
        check_count("prompts_per_step", prompts_per_step, low=1)
        self._prompts_per_step = prompts_per_step
        self._options = (options or CoordinatorOptions()).in_effect(refills)
        self._rng = np.random.default_rng(seed)
        self._potential = Potential(self._tasks, self._options.potential)
        self._synergy = Synergy(self._tasks, self._options.synergy)
        self._scheduler = Scheduler(
            list(self._tasks.values()),
            self._options.schedule,
            self._options.prompts,
            cost_half_life=self._options.potential.half_life,
            baseline=self._options.baseline,
        )
        self._calibrator = Calibrator(list(self._tasks), self._options.calibrate)
        self._flights = Flights()
        self._snapshot: UtilitySnapshot | None = None
        self._calibration: dict[str, TaskCalibration] = {}
        self._probe_revision: int | None = None
        self._last_revision = 0
        self._ledger: dict[str, dict[str, float]] = {name: {} for name in self._tasks}
        self._notes: list[str] = []

    def plan(
        self,
        *,
        revision: int,
        need: Mapping[str, int] | None = None,
        available: Mapping[str, int] | None = None,
    ) -> StepPlan:
        """The next batch.

        Args:
            revision: the policy's revision, >= 0 and never less than in an earlier plan.
            need: exactly so many prompts of each task named, none of the others: refills and
                frameworks with fixed totals. It bypasses quotas, not the choice of prompts.
            available: at most so many prompts of each task named.

        Returns:
            A plan of B prompts (of what `need` sums to), by task. Its rewards and its update are
            reported under its id; a refill is a plan of its own.

        Raises:
            PlanError: the revision goes back, a task is unknown, a count is not a whole number
                >= 0, too few prompts are free, or too many plans are in flight. No prompt was
                drawn and no rounding carried then.
        """
        self._check_plan(revision, need, available)
        self._take_in()
        snapshot = self._snapshot_at(revision)

        quotas = self._quotas(snapshot, need, available)
        draws = {
            name: self._scheduler.draw(
                name, count, revision=revision, rng=self._rng, refill=need is not None
            )
            for name, count in zip(self._tasks, quotas.prompts.tolist(), strict=True)
            if count
        }
        betas = {name: task.beta for name, task in self._calibration.items()}
        halves = {name: self._halves(len(draw.keys)) for name, draw in draws.items()}
        plan = StepPlan(
            id=self._flights.next_id,
            revision=revision,
            items=tuple(plan_items(self._tasks, draws, betas, halves)),
            receipt=self._explained(snapshot, quotas, given=need is not None),
            probe=self._is_probe(revision),
        )
        rows = [row for draw in draws.values() for row in draw.rows]
        self._flights.open(plan, rows)
        return plan

    def observe_groups(self, plan_id: int, groups: Iterable[GroupOutcome]) -> None:
        """Report finished groups of a plan: some or all, in any order.

        A slot's first report counts; later ones are ignored, so a retry does no harm. Groups
        enter the statistics at the next `plan` or `metrics`.

        Raises:
            PlanError: the plan is not in flight, a slot is not in it, or a reward is NaN or
                outside [0, 1] (its task and prompt are named). Nothing is recorded then.
        """
        flight = self._flights.get(plan_id)
        checked = [checked_group(flight.plan, group) for group in groups]
        for group in checked:
            task = flight.plan.items[group.slot].task
            flight.record(group, keep=self._scheduler.keeps(task, group.outcomes))
        if flight.complete:
            self._close(plan_id)

    def observe_update(self, plan_id: int, revision: int, stats: UpdateStats) -> None:
        """Report what the optimiser's step measured.

        Call it once for every plan. When several plans fed one step (a batch and its refills),
        the figures go with one of them and the others get an empty `UpdateStats()`. A second
        report of the same plan is ignored.

        Args:
            plan_id: the plan that was trained on.
            revision: the policy's revision, the plan's or a later one.
            stats: the measurements.

        Raises:
            PlanError: the plan is not in flight, the revision is older than the plan's, a task
                is unknown, or a figure is not finite (its task is named). Nothing is recorded.
        """
        flight = self._flights.get(plan_id)
        if revision < flight.plan.revision:
            raise PlanError(
                f"plan {plan_id}: the update's revision is {revision}; the plan's is "
                f"{flight.plan.revision}, so it must be at least that"
            )
        figures = checked_stats(stats, self._tasks)
        if flight.updated:
            return
        if stats.probe is not None and self._options.synergy.enabled:
            self._synergy.observe(flight.plan.revision, stats.probe)
        fresh = any(figures.values())  # an update without figures (a refill's) changes none
        for name, values in figures.items():
            kept = {f: v for f, v in self._ledger[name].items() if f not in UPDATE_FIGURES}
            self._ledger[name] = {**(kept if fresh else self._ledger[name]), **values}
            if "kl" in values:
                self._calibrator.observe(name, values["kl"])
        flight.updated = True
        if flight.complete:
            self._close(plan_id)

    def forget(self, plan_id: int) -> None:
        """Abandon a plan: its prompts may be drawn again; what was observed of it counts.

        Raises:
            PlanError: the plan is not in flight.
        """
        self._close(plan_id)

    @property
    def snapshot(self) -> UtilitySnapshot:
        """The utilities that both modules read: of the last plan, or as known before any."""
        if self._snapshot is not None:
            return self._snapshot
        self._take_in()
        return self._measure(self._last_revision)

    @property
    def in_flight(self) -> Mapping[int, StepPlan]:
        """Plans that are not finished, by id; after a restart an engine can go on with them."""
        return MappingProxyType(self._flights.plans)

    def unobserved(self, plan_id: int) -> tuple[int, ...]:
        """Slots of a plan in flight whose group was not reported yet.

        Raises:
            PlanError: the plan is not in flight.
        """
        return self._flights.get(plan_id).unobserved()

    def accepted(self, plan_id: int) -> tuple[int, ...]:
        """Slots of a plan in flight whose groups enter the update.

        All, unless `schedule.method` is one that filters groups, or a task is gone since (see
        `load_state_dict`). Ask when all were reported.

        Raises:
            PlanError: the plan is not in flight.
        """
        return self._flights.get(plan_id).accepted()

    def shortfall(self, plan_ids: Sequence[int]) -> dict[str, int]:
        """Prompts that a step still lacks because groups aren't accepted: the next plan's `need`.

        Args:
            plan_ids: the step's plan, then its refills so far.

        Returns:
            Prompts by task; empty when the batch is full, when no prompt or no round is left, or
            when `schedule.method` refuses no group.

        Raises:
            PlanError: a plan is not in flight.
        """
        return self._scheduler.shortfall([self._flights.get(plan_id) for plan_id in plan_ids])

    def metrics(self) -> dict[str, float]:
        """Flat figures as of the last plan and update, `task/<name>/<metric>`.

        What is unknown (an unresolved synergy, a KL that was never measured) is absent.
        `potential` is measured on the prompts that were scheduled.
        """
        self._take_in()
        snapshot = self.snapshot
        metrics: dict[str, float] = {"plans_in_flight": float(len(self._flights))}
        for name in self._tasks:
            figures = task_figures(name, snapshot, self._potential, self._synergy, self._scheduler)
            figures.update(self._ledger[name])
            metrics.update({f"task/{name}/{figure}": value for figure, value in figures.items()})
        return metrics

    def add_task(self, spec: TaskSpec) -> None:
        """Add a task to a running coordinator; it counts as the others' mean until measured.

        Raises:
            ConfigError: the name is taken or a value is out of its range.
        """
        self._tasks = checked_tasks([*self._tasks.values(), spec])
        self._potential.add_task(spec.name)
        self._synergy.add_task(spec.name)
        self._scheduler.update_tasks(list(self._tasks.values()))
        self._calibrator.add_task(spec.name)
        self._ledger[spec.name] = {}
        self._snapshot = None

    def _check_plan(
        self, revision: int, need: Mapping[str, int] | None, available: Mapping[str, int] | None
    ) -> None:
        check_request(self._tasks, revision, need, available)
        if revision < self._last_revision:
            raise PlanError(
                f"revision {revision} was asked for after {self._last_revision}; it never goes back"
            )
        if len(self._flights) >= MAX_IN_FLIGHT:
            raise PlanError(
                f"{len(self._flights)} plans are in flight, the oldest is "
                f"{min(self._flights.plans)}; finish them with observe_groups and observe_update, "
                "or forget them"
            )

    def _snapshot_at(self, revision: int) -> UtilitySnapshot:
        """The revision's snapshot and KL coefficients, made at its first plan."""
        self._last_revision = revision
        if self._snapshot is None or self._snapshot.revision < revision:
            groups = {name: self._potential.groups(name) for name in self._tasks}
            self._scheduler.advance(revision, groups)
            if self._scheduler.phase == "scheduled":
                self._potential.freeze_scales()
            self._snapshot = self._measure(revision)
            self._calibration = self._calibrate(self._snapshot)
        return self._snapshot

    def _measure(self, revision: int) -> UtilitySnapshot:
        return take_snapshot(
            revision, self._tasks, self._potential, self._synergy, self._options.utility
        )

    def _calibrate(self, snapshot: UtilitySnapshot) -> dict[str, TaskCalibration]:
        tasks = [snapshot.tasks[name] for name in self._tasks]
        return self._calibrator.calibrate(
            {name: spec.beta for name, spec in self._tasks.items()},
            np.array([task.utility for task in tasks]),
            np.array([task.utility_se for task in tasks]),
            self._scheduler.drawable_shares(snapshot),
            measured=self._scheduler.phase == "scheduled",
        )

    def _quotas(
        self,
        snapshot: UtilitySnapshot,
        need: Mapping[str, int] | None,
        available: Mapping[str, int] | None,
    ) -> Quotas:
        if need is None:
            return self._scheduler.quotas(snapshot, self._prompts_per_step, available)
        self._scheduler.check_supply(need, available)
        return self._scheduler.requested(need)

    def _halves(self, count: int) -> list[int]:
        """A random split of a task's groups into two halves; the odd one goes to either."""
        order = self._rng.permutation(count).tolist() if count > 1 else [0]  # the usual case
        first = int(self._rng.integers(2))
        return [(place + first) % 2 for place in order]

    def _is_probe(self, revision: int) -> bool:
        """Whether gradients are compared at this revision; all its plans agree."""
        options = self._options.synergy
        if not options.enabled or len(self._tasks) < 2:
            return False
        last = self._probe_revision
        if last is None or revision >= last + options.every:
            self._probe_revision = revision
        return self._probe_revision == revision

    def _explained(self, snapshot: UtilitySnapshot, quotas: Quotas, *, given: bool) -> Receipt:
        """The plan's receipt; its figures also become the metrics of this step."""
        receipt = explain(
            list(self._tasks.values()),
            self._scheduler.phase,
            snapshot,
            quotas,
            self._calibration,
            unresolved=self._synergy.unresolved() if self._options.synergy.enabled else (),
            notes=[*self._notes, *([GIVEN_NOTE] if given else [])],
        )
        self._notes = []
        # A refill completes a batch that was told of.
        if given and any(p.revision == self._last_revision for p in self._flights.plans.values()):
            return receipt
        for k, (name, task) in enumerate(receipt.tasks.items()):
            self._ledger[name].update(
                quota=float(quotas.stages.floor[k]),
                share=task.share,
                prompts=float(task.prompts),
                beta=task.beta,
                beta_multiplier=task.beta_multiplier,
                z=task.z,
            )
        return receipt

    def _take_in(self) -> None:
        """Bring the statistics up to date: what was reported enters by plan and slot."""
        for plan, group, row in self._flights.take_pending():
            task = plan.items[group.slot].task
            self._potential.observe(task, plan.revision, group.outcomes)
            self._scheduler.observe(task, row, plan.revision, group.outcomes, group.tokens)

    def _close(self, plan_id: int) -> None:
        """Let go of a plan's prompts; the groups reported of it still count."""
        flight = self._flights.close(plan_id)
        for item, row in zip(flight.plan.items, flight.rows, strict=True):
            if row >= 0:
                used = item.slot in flight.observed
                self._scheduler.book(item.task).release(row, used=used)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later plan depends on, plans in flight included.

        Plain JSON values and numpy arrays; nothing in it changes afterwards.
        """
        return {
            "version": STATE_VERSION,
            "tasks": list(self._tasks),
            "rng": self._rng.bit_generator.state,
            "potential": self._potential.state_dict(),
            "synergy": self._synergy.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "calibrator": self._calibrator.state_dict(),
            "flights": self._flights.state_dict(),
            "snapshot": None if self._snapshot is None else self._snapshot.as_dict(),
            "calibration": {name: asdict(c) for name, c in self._calibration.items()},
            "probe_revision": self._probe_revision,
            "last_revision": self._last_revision,
            "ledger": {name: dict(figures) for name, figures in self._ledger.items()},
            "notes": list(self._notes),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], *, on_task_change: Literal["error", "adapt"] = "error"
    ) -> None:
        """Restore `state_dict()`; plans from then on are what they would have been.

        Ratios, betas, G, limits and options are this coordinator's, not the state's: a run may be
        continued with other settings. What must fit are the tasks and their prompts.

        Args:
            state: from `state_dict()`, JSON round trip of its plain values allowed.
            on_task_change: `error` refuses a state whose tasks differ, whose number of prompts in
                a task differs, or of whose prompts one that was drawn is not where it was.
                `adapt` starts new tasks afresh, drops those that are gone (their slots of plans
                in flight count as observed), and looks drawn prompts up among the new keys (one
                pass over a changed task's keys). What it did is noted in the next receipt.

        Raises:
            StateError: the state doesn't fit; this coordinator is as before.
            ConfigError: `on_task_change` is neither.
        """
        check_choice("on_task_change", on_task_change, ("error", "adapt"))
        # All or nothing: a fresh coordinator takes the state, then this one becomes it.
        fresh = Coordinator(
            list(self._tasks.values()),
            prompts_per_step=self._prompts_per_step,
            options=self._options,
            refills=True,
        )
        fresh._restore(state, on_task_change)
        vars(self).update(vars(fresh))

    def _restore(self, state: Mapping[str, Any], on_task_change: Literal["error", "adapt"]) -> None:
        check_keys("the coordinator", state, self.state_dict())
        if state["version"] != STATE_VERSION:
            raise StateError(f"state has version {state['version']}; it must be {STATE_VERSION}")
        new = [name for name in self._tasks if name not in state["tasks"]]
        gone = [name for name in state["tasks"] if name not in self._tasks]
        if (new or gone) and on_task_change == "error":
            raise StateError(
                f"tasks changed since the state was saved: new {new}, gone {gone}; load with "
                "on_task_change='adapt' to go on"
            )
        self._rng.bit_generator.state = state["rng"]
        self._potential.load_state_dict(saved_of(state["potential"], self._potential.state_dict()))
        self._calibrator.load_state_dict(
            saved_of(state["calibrator"], self._calibrator.state_dict())
        )
        self._synergy = Synergy(state["tasks"], self._options.synergy)
        self._synergy.load_state_dict(state["synergy"])
        self._synergy.follow(self._tasks)
        rows = self._scheduler.load_state_dict(state["scheduler"], on_change=on_task_change)
        self._flights = Flights.from_state(state["flights"], rows)
        self._probe_revision = state["probe_revision"]
        self._last_revision = state["last_revision"]
        self._ledger = {k: dict(v) for k, v in saved_of(state["ledger"], self._ledger).items()}
        self._notes = [
            *state["notes"],
            *([ANEW_NOTE] if self._synergy.is_of_another_kind(state["synergy"]) else []),
            *adaptation_notes(new, gone, rows),
        ]
        if state["snapshot"] is not None and not (new or gone):
            self._snapshot = UtilitySnapshot.from_dict(state["snapshot"])
            self._calibration = {
                name: TaskCalibration(**entries) for name, entries in state["calibration"].items()
            }
