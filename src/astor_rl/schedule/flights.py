"""Plans in flight: what was handed out and what has come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_keys
from astor_rl.errors import PlanError
from astor_rl.plan import (
    GroupOutcome,
    PlanItem,
    Receipt,
    StepPlan,
    TaskReceipt,
    TaskSpec,
)
from astor_rl.schedule.prompts import Draw

_Record = TypeVar("_Record", PlanItem, TaskReceipt, GroupOutcome)

_STATE_KEYS = (
    "id",
    "revision",
    "probe",
    "items",
    "phase",
    "snapshot_revision",
    "tasks",
    "notes",
    "rows",
    "observed",
    "refused",
    "pending",
    "updated",
)


def plan_items(
    tasks: Mapping[str, TaskSpec],
    draws: Mapping[str, Draw],
    betas: Mapping[str, float],
    halves: Mapping[str, Sequence[int]],
) -> Iterator[PlanItem]:
    """The prompts of a plan by task, with slots from 0 on."""
    slot = 0
    for name, draw in draws.items():
        spec = tasks[name]
        for key, propensity, half in zip(draw.keys, draw.propensities, halves[name], strict=True):
            yield PlanItem(
                slot=slot,
                task=name,
                key=key,
                num_generations=spec.num_generations,
                max_tokens=spec.max_tokens,
                beta=betas[name],
                propensity=propensity,
                half=half,
            )
            slot += 1


@dataclass(slots=True)
class Flight:
    """One plan in flight.

    Attributes:
        plan: what was handed out.
        rows: for each slot its prompt's row in the task's book; -1 when the prompt is gone.
        observed: slots that were reported, or that belong to a task that is gone.
        refused: slots whose groups the schedule keeps out of the update, or whose task is gone.
        pending: reports that the statistics have not taken in yet, by slot.
        updated: whether its update was reported.
    """

    plan: StepPlan
    rows: list[int]
    observed: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    pending: dict[int, GroupOutcome] = field(default_factory=dict)
    updated: bool = False

    def record(self, group: GroupOutcome, *, keep: bool = True) -> None:
        """Keep a report for the next time the statistics are brought up to date."""
        if group.slot not in self.observed:
            self.observed.add(group.slot)
            self.pending[group.slot] = group
            if not keep:
                self.refused.add(group.slot)

    def take_pending(self) -> list[GroupOutcome]:
        """Reports to take in now, by slot: the order in which they came leaves no trace."""
        groups = self._by_slot()
        self.pending.clear()
        return groups

    def accepted(self) -> tuple[int, ...]:
        """Slots whose groups enter the update."""
        return tuple(s for s in range(len(self.plan.items)) if s not in self.refused)

    def unobserved(self) -> tuple[int, ...]:
        """Slots without a report."""
        return tuple(s for s in range(len(self.plan.items)) if s not in self.observed)

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come."""
        return self.updated and len(self.observed) == len(self.plan.items)

    def follow(self, rows: Mapping[str, NDArray[np.int64]]) -> None:
        """Point at prompts' new rows after a load: for each task, its saved rows' rows now.

        Slots of tasks that are not named are gone: they count as observed, and enter no update.
        """
        for item, row in zip(self.plan.items, self.rows, strict=True):
            known = item.task in rows and row >= 0
            self.rows[item.slot] = int(rows[item.task][row]) if known else -1
            if item.task not in rows:
                self.observed.add(item.slot)
                self.refused.add(item.slot)
                self.pending.pop(item.slot, None)

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        receipt = self.plan.receipt
        return {
            "id": self.plan.id,
            "revision": self.plan.revision,
            "probe": self.plan.probe,
            "items": [asdict(item) for item in self.plan.items],
            "phase": receipt.phase,
            "snapshot_revision": receipt.snapshot_revision,
            "tasks": {name: asdict(task) for name, task in receipt.tasks.items()},
            "notes": list(receipt.notes),
            "rows": list(self.rows),
            "observed": sorted(self.observed),
            "refused": sorted(self.refused),
            "pending": [
                asdict(group) | {"outcomes": list(group.outcomes)} for group in self._by_slot()
            ],
            "updated": self.updated,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild from `state_dict()`.

        Raises:
            StateError: entries are missing or unknown.
        """
        check_keys("a plan in flight", state, _STATE_KEYS)
        plan = StepPlan(
            id=state["id"],
            revision=state["revision"],
            items=tuple(_record(PlanItem, item) for item in state["items"]),
            receipt=Receipt(
                phase=state["phase"],
                snapshot_revision=state["snapshot_revision"],
                tasks={name: _record(TaskReceipt, task) for name, task in state["tasks"].items()},
                notes=tuple(state["notes"]),
            ),
            probe=state["probe"],
        )
        groups = [
            _record(GroupOutcome, {**group, "outcomes": tuple(group["outcomes"])})
            for group in state["pending"]
        ]
        return cls(
            plan=plan,
            rows=list(state["rows"]),
            observed=set(state["observed"]),
            refused=set(state["refused"]),
            pending={group.slot: group for group in groups},
            updated=state["updated"],
        )

    def _by_slot(self) -> list[GroupOutcome]:
        return [self.pending[slot] for slot in sorted(self.pending)]


class Flights:
    """The plans in flight, and those that are closed but whose groups were not taken in yet."""

    def __init__(self) -> None:
        self._open: dict[int, Flight] = {}
        self._closed: dict[int, Flight] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def next_id(self) -> int:
        """The id of the plan that is opened next."""
        return self._next_id

    @property
    def plans(self) -> dict[int, StepPlan]:
        """What is in flight, by id."""
        return {plan_id: flight.plan for plan_id, flight in self._open.items()}

    def open(self, plan: StepPlan, rows: Sequence[int]) -> None:
        """Hand out a plan of id `next_id`; `rows` are its prompts' rows by slot."""
        self._open[plan.id] = Flight(plan, list(rows))
        self._next_id = plan.id + 1

    def get(self, plan_id: int) -> Flight:
        """A plan in flight.

        Raises:
            PlanError: it is not.
        """
        flight = self._open.get(plan_id)
        if flight is None:
            why = "finished or forgotten" if 0 <= plan_id < self._next_id else "never made"
            raise PlanError(f"plan {plan_id} is not in flight: {why}")
        return flight

    def close(self, plan_id: int) -> Flight:
        """End a plan; its pending groups wait for `take_pending`, so that in which order plans end
        leaves no trace.

        Raises:
            PlanError: it is not in flight.
        """
        flight = self.get(plan_id)
        del self._open[plan_id]
        if flight.pending:
            self._closed[plan_id] = flight
        return flight

    def take_pending(self) -> Iterator[tuple[StepPlan, GroupOutcome, int]]:
        """Reports to take in now by plan and slot, each with its prompt's row."""
        known = self._open | self._closed
        self._closed = {}
        for plan_id in sorted(known):
            flight = known[plan_id]
            for group in flight.take_pending():
                yield flight.plan, group, flight.rows[group.slot]

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "next_id": self._next_id,
            "open": [flight.state_dict() for flight in self._open.values()],
            "closed": [flight.state_dict() for flight in self._closed.values()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rows: Mapping[str, NDArray[np.int64]]) -> Self:
        """Rebuild from `state_dict()`; `rows` as in `Flight.follow`.

        Raises:
            StateError: entries are missing or unknown.
        """
        check_keys("plans in flight", state, ("next_id", "open", "closed"))
        fresh = cls()
        fresh._next_id = state["next_id"]
        for part, into in ((state["open"], fresh._open), (state["closed"], fresh._closed)):
            for saved in part:
                flight = Flight.from_state(saved)
                flight.follow(rows)
                into[flight.plan.id] = flight
        return fresh


def _record(kind: type[_Record], state: Mapping[str, Any]) -> _Record:
    """A plain record from its fields."""
    check_keys(f"a {kind.__name__} in flight", state, [field.name for field in fields(kind)])
    return kind(**state)
