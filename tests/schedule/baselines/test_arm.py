"""Absolute advantages by hand, and the clock of an arm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from astor_rl.plan import TaskSpec, varies
from astor_rl.schedule.baselines.arm import absolute_advantages, softmax
from astor_rl.schedule.baselines.mopps import Mopps
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.utility.task_utility import UtilitySnapshot


@pytest.mark.parametrize("right", range(9))
def test_mean_absolute_advantage_of_right_and_wrong_answers(right):
    """2 sqrt(p (1 - p)): for 2 of 8, |1 - 1/4| / sqrt(3/16) twice and |0 - 1/4| / ... six times."""
    found = absolute_advantages([1.0] * right + [0.0] * (8 - right))
    p = right / 8
    assert math.fsum(found) / 8 == pytest.approx(2 * math.sqrt(p * (1 - p)))


def test_equal_outcomes_have_no_advantage_whatever_they_are():
    # 0.1 * 3 / 3 is not 0.1 in floating point: a float deviation would not be 0.
    assert absolute_advantages([0.1] * 3) == [0.0] * 3
    assert absolute_advantages([]) == []
    assert not varies([0.1] * 3)
    assert not varies([])
    assert varies([0.1, 0.2])


@pytest.mark.parametrize("level", [-2000.0, 0.0, 2000.0])
def test_a_softmax_is_of_differences_at_any_level(level):
    """Scores over a small temperature are large: exp of them alone is past all floats."""
    shares = softmax(level + np.array([0.0, math.log(3)]))
    assert shares.tolist() == pytest.approx([0.25, 0.75])


def test_shares_hold_for_a_revision_and_learn_between_revisions(bench):
    each = bench("sec")
    first = each.shares()
    each.feed("a", 0, 1)
    each.revision = 0
    assert each.shares() == first
    assert each.shares() != first


def test_adapted_evidence_follows_its_prompts(bench):
    """The last step's groups wait for the next shares; three prompts before theirs are gone."""
    before = bench("mopps")  # tasks a and b with prompts a0 ... a9 and b0 ... b9
    before.shares()
    before.feed("a", 1.0, 1.0, 0.0, index=5)
    before.feed("a", 1.0, index=1)
    before.feed("b", 1.0, 0.0, index=7)
    before.feed("b", 0.0, index=0)
    state = before.arm.state_dict()

    places = {"a": range(3, 10), "b": range(10)}
    tasks = [TaskSpec(task, [f"{task}{place}" for place in of]) for task, of in places.items()]
    after = Mopps(tasks, BaselineOptions())
    after.load_state_dict(state, adapt=True)
    after.shares_at(UtilitySnapshot(1, {}))
    known = after.own_state()["posteriors"]
    assert {name: prompts["keys"].tolist() for name, prompts in known.items()} == {
        "a": [b"a5"],
        "b": [b"b0", b"b7"],
    }
