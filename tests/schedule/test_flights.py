"""Plans in flight: who may end when, and what is taken in of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.errors import PlanError, StateError
from astor_rl.plan import GroupOutcome, PlanItem, Receipt, StepPlan, TaskSpec, UpdateStats
from astor_rl.schedule.flights import Flights
from astor_rl.schedule.quota import ScheduleOptions


def plan(number: int, *, size: int = 2) -> StepPlan:
    items = tuple(PlanItem(slot, "io", f"io-{slot}", 4, 64, 0.1, 1.0, 0) for slot in range(size))
    return StepPlan(number, number, items, Receipt("warmup", number, {}), probe=False)


def opened(*numbers: int) -> Flights:
    flights = Flights()
    for number in numbers:
        flights.open(plan(number), [10 * number, 10 * number + 1])
    return flights


def report(flights: Flights, number: int, *slots: int) -> None:
    for slot in slots:
        flights.get(number).record(GroupOutcome(slot, (0.0, 1.0)))


def taken(flights: Flights) -> list[tuple[int, int, int]]:
    """(plan, slot, row) of what is taken in."""
    return [(plan.id, group.slot, row) for plan, group, row in flights.take_pending()]


def test_reports_are_taken_in_once_by_plan_and_slot_whichever_plan_ends_first() -> None:
    flights = opened(0, 1, 2)
    report(flights, 2, 1)
    report(flights, 1, 1, 0)
    flights.close(1)
    report(flights, 0, 0)
    assert set(flights.plans) == {0, 2}
    assert taken(flights) == [(0, 0, 0), (1, 0, 10), (1, 1, 11), (2, 1, 21)]
    report(flights, 0, 1)
    assert taken(flights) == [(0, 1, 1)]
    assert taken(flights) == []


def test_a_plan_that_is_not_in_flight_is_named_with_why() -> None:
    flights = opened(0, 1)
    flights.close(0)
    for number, why in ((0, "finished or forgotten"), (2, "never made"), (-1, "never made")):
        with pytest.raises(PlanError, match=f"plan {number} is not in flight: {why}"):
            flights.get(number)
    assert (len(flights), flights.next_id) == (1, 2)


def test_a_state_has_what_ended_too_and_is_strict() -> None:
    flights = opened(0, 1)
    report(flights, 0, 0)
    report(flights, 1, 1)
    flights.close(1)
    rows = {"io": np.arange(100) + 5}
    state = json.loads(json.dumps(flights.state_dict()))
    again = Flights.from_state(state, rows)
    assert (again.plans, again.next_id) == (flights.plans, 2)
    assert taken(again) == [(0, 0, 5), (1, 1, 16)]
    with pytest.raises(StateError, match=r"state of plans in flight: missing \['closed'\]"):
        Flights.from_state({"next_id": 0, "open": []}, rows)


def test_in_which_order_plans_end_leaves_no_trace() -> None:
    """Two plans that share prompts, so that what is known of a prompt depends on the order."""

    def run(*, turned: bool) -> tuple[list[str], object]:
        often = CoordinatorOptions(schedule=ScheduleOptions(allow_repeats=True, warmup_steps=0))
        tasks = [TaskSpec(name, [f"{name}-{i}" for i in range(6)]) for name in ("io", "tests")]
        each = Coordinator(tasks, prompts_per_step=8, options=often)
        drawn = []
        for revision in range(0, 20, 2):
            pair = [each.plan(revision=revision), each.plan(revision=revision + 1)]
            drawn += [item.key for plan in pair for item in plan.items]
            for one in reversed(pair) if turned else pair:
                rng = np.random.default_rng(one.id)
                wins = [(rng.random(8) < 0.5).astype(float).tolist() for _ in one.items]
                groups = [GroupOutcome(slot, tuple(each)) for slot, each in enumerate(wins)]
                each.observe_groups(one.id, groups)
                each.observe_update(one.id, one.revision + 1, UpdateStats())
        return drawn, (each.metrics(), each.plan(revision=30))

    assert run(turned=True) == run(turned=False)
