"""GRESO's streaks, chances and exploration by hand."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def chances(each) -> list[float]:
    return each.arm.chances("a", np.arange(4)).tolist()


def test_streaks_become_chances(bench):
    """p = 0.5 unmoved: one hard visit 0.5, two 0.25; variance ends a streak; seven: the floor."""
    each = bench("greso", greso_step=0.0)
    each.feed("a", 0, 0, index=0)
    each.feed("a", 1, 1, index=1)
    each.feed("a", 1, 0, index=2)
    each.shares()
    assert chances(each) == [0.5, 0.5, 1.0, 1.0]
    each.feed("a", 0, 0, index=0)
    each.feed("a", 0, 1, index=1)
    each.shares()
    assert chances(each) == [0.25, 1.0, 1.0, 1.0]
    for _ in range(5):
        each.feed("a", 0, 0, index=0)
    each.shares()
    assert chances(each)[0] == 0.01  # 0.5^7 = 0.0078 is below the floor


def test_a_streak_is_of_one_kind(bench):
    each = bench("greso", greso_step=0.0)
    each.feed("a", 0, 0, index=0)
    each.shares()
    each.feed("a", 1, 1, index=0)
    each.shares()
    assert chances(each)[0] == 0.5


def test_exploration_is_steered_to_the_target(bench):
    """Of 4 groups 1 is easy (25% >= 8.3%: 0.5 - 0.01) and none is hard (0 < 16.7%: 0.5 + 0.01)."""
    each = bench("greso")
    each.feed("a", 1, 1, index=0)
    for index in (1, 2, 3):
        each.feed("b", 1, 0, index=index)
    each.shares()
    assert each.arm.note() == "p easy 0.49, p hard 0.51"
    for _ in range(60):
        each.feed("a", 1, 1, index=0)
        each.shares()
    assert each.arm.note() == "p easy 0.05, p hard 0.95"
    each.shares()  # nothing was sampled: nothing moves
    assert each.arm.note() == "p easy 0.05, p hard 0.95"


def test_skipped_prompts_come_last(bench):
    """Prompt 0 passes once in a hundred draws; the others always."""
    each = bench("greso")
    for _ in range(9):
        each.feed("a", 0, 0, index=0)
    each.shares()
    picks = [each.arm.pick("a", np.arange(4), 3, RNG, refill=False) for _ in range(300)]
    taken = np.mean([0 in pick for pick in picks])
    assert taken == pytest.approx(0.01 * 0.75, abs=0.02)
    assert sorted(each.arm.pick("a", np.arange(4), 4, RNG, refill=False)) == [0, 1, 2, 3]
