"""The simulator of benchmarks/scaling: does it run, and is what it counts so?"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.scaling.case import GENERATIONS, Case, coordinator
from benchmarks.scaling.driver import Driver
from benchmarks.scaling.engines import ProcessFleet, answer

ROOT = Path(__file__).parents[2]


def test_an_engine_answers_every_item_once_in_another_order():
    plan = coordinator(Case(3, 300, 30, 1, 0, 1)).plan(revision=0)
    message = answer(pickle.dumps((plan.id, list(plan.items))), np.random.default_rng(1))
    plan_id, groups = pickle.loads(message)
    slots = [group.slot for group in groups]
    assert plan_id == plan.id
    assert slots != sorted(slots)
    assert sorted(slots) == list(range(30))
    assert all(len(group.outcomes) == GENERATIONS for group in groups)


@pytest.mark.parametrize("staleness", [0, 3])
def test_plans_are_trained_on_as_late_as_asked_and_all_are_closed(staleness):
    case = Case(4, 400, 24, engines=7, staleness=staleness, steps=4)
    fleet = ProcessFleet(2)
    try:
        result = Driver(case, fleet).run()
    finally:
        fleet.close()
    assert result["staleness_seen"]["median"] == staleness
    assert result["messages"] == pytest.approx(14, abs=7)
    assert set(result["parts_ms"]) == {
        "messages",
        "observe_groups",
        "observe_update",
        "plan",
        "record",
    }
    assert result["step_cpu_ms_mean"] > 0
    assert all(result["bytes"].values())


@pytest.mark.slow
def test_the_command_ends_with_one_line_of_json(tmp_path: Path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.scaling", "--quick"),
            *("--transport", "processes", "--output", str(tmp_path / "scaling.json")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads((tmp_path / "scaling.json").read_text())
    assert [case["tasks"] for case in result["cases"]] == [4, 32]
    assert result["worst_share"]["30"] < result["worst_share"]["10"]
