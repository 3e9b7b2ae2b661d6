"""AdaRFT's target by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.adarft import AdaRft
from astor_rl.schedule.baselines.arm import Seen
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.utility.task_utility import UtilitySnapshot

OPTIONS = BaselineOptions()
RNG = np.random.default_rng(0)


def test_target_follows_the_reward(bench):
    """d = 0, 0.1 .. 0.9; eta 0.5, alpha 2, beta 0.5. Mean 0.75: T = 0.5 tanh(0.5) = 0.231059.

    Then mean 0.25: back to 0. Then 1 twice: 0.5 tanh(1) = 0.380797, 0.761594; once more: d_max.
    """
    each = bench("adarft")
    assert each.shares() == [0.5, 0.5]
    found = []
    for outcomes in ((1, 1, 1, 0), (1, 0, 0, 0), (1, 1), (1, 1), (1, 1)):
        each.feed("a", *outcomes)
        each.shares()
        found.append(each.arm.terms("a")["target_difficulty"])
    assert found == pytest.approx([0.231059, 0.0, 0.380797, 0.761594, 0.9], abs=1e-6)
    assert each.arm.terms("b") == each.arm.terms("a")
    assert 0.5 * math.tanh(0.5) == pytest.approx(0.231059, abs=1e-6)


def test_the_target_is_one_for_all_tasks(bench):
    """Mean 5 / 8 of both tasks' rollouts: T = 0.5 tanh(0.25) = 0.122459."""
    each = bench("adarft")
    each.feed("a", 1, 1, 1, 1)
    each.feed("b", 1, 0, 0, 0)
    each.shares()
    assert each.arm.terms("b")["target_difficulty"] == pytest.approx(0.122459, abs=1e-6)


def test_tasks_without_difficulties_do_not_move_it():
    arm = AdaRft([TaskSpec("a", ["0", "1"], difficulty=(0.2, 0.9)), TaskSpec("b", ["0"])], OPTIONS)
    arm.observe(Seen(0, "b", 0, (1.0, 1.0)))
    arm.shares_at(UtilitySnapshot(1, {}))
    assert arm.terms("b") == {"target_difficulty": 0.2}
    arm.observe(Seen(1, "a", 0, (1.0, 1.0)))
    arm.shares_at(UtilitySnapshot(2, {}))
    assert arm.terms("b")["target_difficulty"] == pytest.approx(0.2 + 0.380797, abs=1e-6)


def test_the_target_ranges_over_the_difficulties_of_all_tasks():
    """It starts at the easiest of the easy task and ends at the hardest of the hard one."""
    easy = TaskSpec("a", ["0", "1"], difficulty=(0.1, 0.2))
    hard = TaskSpec("b", ["0", "1"], difficulty=(0.3, 0.4))
    arm, found = AdaRft([easy, hard], OPTIONS), []
    for revision in range(2):
        arm.shares_at(UtilitySnapshot(revision, {}))
        found.append(arm.terms("a")["target_difficulty"])
        arm.observe(Seen(revision, "a", 0, (1.0, 1.0)))  # raises it by 0.38, more than there is
    arm.shares_at(UtilitySnapshot(2, {}))
    assert [*found, arm.terms("a")["target_difficulty"]] == [0.1, 0.4, 0.4]


def test_the_nearest_prompts_are_taken(bench):
    """T = 0.231059: distances of 0.2, 0.3 and 0.1 are 0.031, 0.069 and 0.131."""
    each = bench("adarft")
    each.feed("a", 1, 1, 1, 0)
    each.shares()
    assert each.arm.pick("a", np.arange(10), 3, RNG, refill=False).tolist() == [2, 3, 1]
    free = np.array([0, 1, 5, 9])
    assert each.arm.pick("a", free, 2, RNG, refill=False).tolist() == [1, 0]
