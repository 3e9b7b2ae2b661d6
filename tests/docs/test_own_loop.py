"""docs/own-loop.md: its blocks run, and what it says of them is so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def ran(manual) -> dict[str, Any]:
    """What the page's blocks leave behind, run in their order."""
    namespace: dict[str, Any] = {}
    for block in manual.blocks(manual.text("own-loop"), "python"):
        exec(block, namespace)
    return namespace


def test_the_loop_is_about_ten_lines(manual):
    (block,) = manual.blocks(manual.section("own-loop", "The loop, in ten lines"), "python")
    lines = [line for line in block.splitlines() if line and "import" not in line]
    assert len(lines) <= 10


def test_the_model_learned_what_can_be_learned(ran):
    right = {name: float(ran["policy"](name)[:count].sum()) for name, count in ran["RIGHT"].items()}
    assert right["io"] > 0.8
    assert right["code"] > 0.6
    assert np.allclose(ran["logits"]["tests"], 0)


def test_prompts_went_where_something_is_learned(ran):
    metrics = ran["coordinator"].metrics()
    seen = {name: metrics[f"task/{name}/groups"] for name in ran["RIGHT"]}
    assert min(seen["io"], seen["code"]) > max(seen["tests"], seen["commits"])


def test_tasks_without_shared_parameters_have_no_synergy(ran):
    metrics = ran["coordinator"].metrics()
    assert "task/io/synergy_age" in metrics
    assert metrics["task/io/synergy_used"] == 0


def test_nothing_is_left_in_flight_but_the_last_plan(ran):
    assert len(ran["coordinator"].in_flight) == 1
