from __future__ import annotations

import copy
from typing import Any

import pytest

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.verl.coordination import Coordination, build_coordinator
from astor_rl.errors import PlanError, StateError
from astor_rl.plan import GroupOutcome, UpdateStats

KEYS = {"io": [f"i{n}" for n in range(30)], "code": [f"c{n}" for n in range(20)]}
PLACES = [(task, key) for task, keys in KEYS.items() for key in keys]


def run(**changes: Any) -> RunConfig:
    tasks = [{"name": n, "task": "io_prediction", "source": "jsonl:x"} for n in KEYS]
    raw = {"model": "m", "engine": "verl", "prompts_per_step": 6, "tasks": tasks, "seed": 3}
    return parse_config({**raw, "schedule": {"warmup_steps": 1}, **changes})


def make(config: RunConfig | None = None) -> Coordination:
    return Coordination(build_coordinator(config or run(), KEYS), PLACES)


def step(coordination: Coordination) -> list[int]:
    """One step whose rewards are a function of the plan."""
    rows = [coordination.next_row() for _ in range(6)]
    items = coordination.current().items
    outcomes = [(0.0, 1.0) if item.task == "io" else (0.0, 0.0) for item in items]
    coordination.observe_groups(
        [GroupOutcome(i.slot, o, tokens=9) for i, o in zip(items, outcomes, strict=True)]
    )
    coordination.observe_update(UpdateStats(kl={"io": 0.01}))
    return rows


def test_rows_are_the_plans_prompts_in_its_order():
    coordination = make()
    rows = [coordination.next_row() for _ in range(6)]
    items = coordination.current().items
    assert [PLACES[row] for row in rows] == [(item.task, item.key) for item in items]
    assert [coordination.item_of(uid) for uid in coordination.uids()] == list(items)


def test_quotas_are_fresh_in_the_step_after_the_rewards():
    coordination = make()
    for _ in range(8):
        step(coordination)
    rows = step(coordination)
    # io's outcomes vary, code's never do: what was observed has reached the quotas.
    assert sum(PLACES[row][0] == "io" for row in rows) > 3


def test_reading_ahead_is_refused():
    coordination = make()
    for _ in range(6):
        coordination.next_row()
    with pytest.raises(PlanError, match="dataloader_num_workers must be 0"):
        coordination.next_row()


def test_a_batch_of_another_step_is_refused():
    coordination = make()
    step(coordination)
    coordination.next_row()
    for uid in ("0-1", "1-99", "1-x", "pad3f", ""):
        with pytest.raises(PlanError, match="is not of plan 1"):
            coordination.item_of(uid)


def test_a_group_that_never_came_back_counts_as_unjudged():
    coordination = make()
    for _ in range(6):
        coordination.next_row()
    coordination.observe_groups([GroupOutcome(0, (0.0, 1.0))])
    coordination.observe_update(UpdateStats())
    assert coordination.metrics()["plans_in_flight"] == 0


def test_a_resumed_coordination_goes_on_exactly():
    straight = make()
    for _ in range(3):
        step(straight)
    state = copy.deepcopy(straight.state_dict())
    expected = [step(straight) for _ in range(3)]
    resumed = make()
    resumed.load_state_dict(state)
    assert [step(resumed) for _ in range(3)] == expected


@pytest.mark.parametrize("taken", [1, 4, 6])
def test_a_state_taken_within_a_plan_keeps_the_rest_of_it(taken: int):
    straight = make()
    step(straight)
    for _ in range(taken):
        straight.next_row()
    resumed = make()
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert resumed.current() == straight.current()
    assert [resumed.next_row() for _ in range(6 - taken)] == [
        straight.next_row() for _ in range(6 - taken)
    ]
    assert resumed.uids() == straight.uids()


def test_a_state_of_other_tasks_is_refused():
    state = make().state_dict()
    task = {"name": "io", "task": "io_prediction", "source": "jsonl:x"}
    places = [place for place in PLACES if place[0] == "io"]
    other = Coordination(build_coordinator(run(tasks=[task]), {"io": KEYS["io"]}), places)
    with pytest.raises(StateError, match=r"state of the tasks: missing \[\], unknown \['code'\]"):
        other.load_state_dict(state)
    with pytest.raises(StateError, match="version 9"):
        other.load_state_dict({**state, "version": 9})


def test_data_of_other_tasks_is_refused():
    with pytest.raises(StateError, match="code, io; its data holds io; export it again"):
        build_coordinator(run(), {"io": KEYS["io"]})
