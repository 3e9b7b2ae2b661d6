"""VCRL's normalised variance and memory bank by hand."""

from __future__ import annotations

import numpy as np
import pytest

from astor_rl.schedule.baselines.vcrl import normalised_variance

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("right", "size", "p"),
    [
        # k (G - k) / (G (G - 1)) over G / (4 (G - 1)) = 4 k (G - k) / G^2 for even G
        (4, 8, 1.0),
        (1, 8, 28 / 64),
        (0, 8, 0.0),
        # ... over (G + 1) / (4 G) = 4 k (G - k) / ((G - 1) (G + 1)) for odd G
        (2, 5, 24 / 24),
        (1, 5, 16 / 24),
        (1, 1, 0.0),
    ],
)
def test_normalised_variance(right, size, p):
    outcomes = [1.0] * right + [0.0] * (size - right)
    assert normalised_variance(outcomes) == pytest.approx(p)


def test_the_threshold_rises_after_the_early_steps(bench):
    """One of eight right has p = 0.4375: above 0.3, below 0.8."""
    each = bench("vcrl", vcrl_early_steps=2)
    kept = []
    for _ in range(4):
        each.shares()
        kept.append(each.arm.keeps("a", [1.0] + [0.0] * 7))
    assert kept == [True, True, False, False]
    assert each.arm.keeps("a", [1.0] * 4 + [0.0] * 4)


def test_graded_outcomes_are_measured_by_their_task_s_own(bench):
    """(0.6, 0.4, 0.4, 0.6) has 0.04 of the variance of (1, 0, 0, 1), and is usual for b.

    Half as far apart it is a quarter of that: below 0.3 there, as one of eight is above it in a.
    A single group as wide as can be is no measure for the others.
    """
    each = bench("vcrl")
    each.shares()
    wide, narrow = [0.6, 0.4, 0.4, 0.6], [0.55, 0.45, 0.45, 0.55]
    assert normalised_variance(wide) == pytest.approx(0.04)
    for _ in range(7):
        each.feed("b", *wide)
        each.feed("a", 1, 0, 0, 0, 0, 0, 0, 0)
    each.shares()
    assert each.arm.keeps("b", narrow)  # too little is known yet
    for _ in range(6):
        each.feed("b", *wide)
        each.feed("a", 1, 0, 0, 0, 0, 0, 0, 0)
    each.feed("b", 1, 1, 0, 0)
    each.shares()
    assert each.arm.keeps("b", wide)
    assert not each.arm.keeps("b", narrow)
    assert not each.arm.keeps("b", [0.5] * 4)
    assert each.arm.keeps("a", [1.0] + [0.0] * 7)  # 0.4375, and not 1
    fresh = bench("vcrl").arm
    fresh.load_state_dict(each.arm.state_dict(), adapt=False)
    assert not fresh.keeps("b", narrow)


def test_a_group_of_one_outcome_is_no_measure(bench):
    """It can't vary: seven groups and any number of those are fewer than eight."""
    each = bench("vcrl")
    for _ in range(7):
        each.feed("b", 0.6, 0.4, 0.4, 0.6)
        each.feed("b", 0.6)
    each.shares()
    assert each.arm.keeps("b", [0.55, 0.45, 0.45, 0.55])
    each.feed("b", 0.6, 0.4, 0.4, 0.6)
    each.shares()
    assert not each.arm.keeps("b", [0.55, 0.45, 0.45, 0.55])


def test_the_bank_gives_its_best_first_and_each_twice(bench):
    """p of prompts 2, 5 and 7: 4 x 1 x 3 / 16 = 0.75, 1 and 0: the last never enters."""
    each = bench("vcrl")
    each.shares()
    each.feed("a", 1, 0, 0, 0, index=2)
    each.feed("a", 1, 1, 0, 0, index=5)
    each.feed("a", 0, 0, 0, 0, index=7)
    each.shares()
    free = np.arange(10)
    assert each.arm.replacements("a", free) == 2
    assert each.arm.replacements("a", np.array([0, 5])) == 1
    assert each.arm.pick("a", free, 1, RNG, refill=True).tolist() == [5]
    assert each.arm.pick("a", free, 2, RNG, refill=True).tolist() == [5, 2]
    # 5 has been replayed twice and left; 2 once.
    assert each.arm.pick("a", free, 1, RNG, refill=True).tolist() == [2]
    assert each.arm.replacements("a", free) == 0


@pytest.mark.parametrize("replays", [0, 1, 2])
def test_a_spent_prompt_is_not_let_in_again(bench, replays):
    """A replay varies as the first visit did, and is learnt from like any visit."""
    each = bench("vcrl", vcrl_replays=replays)
    each.shares()
    each.feed("a", 1, 1, 0, 0, index=5)
    each.shares()
    free, given = np.arange(10), 0
    for _ in range(4):
        if each.arm.replacements("a", free):
            assert each.arm.pick("a", free, 1, RNG, refill=True).tolist() == [5]
            given += 1
        each.feed("a", 1, 1, 0, 0, index=5)
        each.shares()
    assert given == replays


def test_priorities_move_with_momentum(bench):
    """0.9 x 1 + 0.1 x 0 = 0.9, and again 0.81, still above 0.75."""
    each = bench("vcrl")
    each.shares()
    each.feed("a", 1, 1, 0, 0, index=5)
    each.feed("a", 1, 0, 0, 0, index=2)
    each.shares()
    for expected in (0.9, 0.81, 0.729):
        each.feed("a", 0, 0, 0, 0, index=5)
        each.shares()
        bank = each.arm.own_state()["banks"]["a"]
        assert bank["columns"]["priority"][bank["index"].tolist().index(5)] == pytest.approx(
            expected
        )
    assert each.arm.pick("a", np.arange(10), 1, RNG, refill=True).tolist() == [2]


def test_an_empty_bank_replaces_nothing(world):
    each = world("vcrl")
    assert len(each.step(0)) == 1
    assert any(len(each.step(revision)) == 2 for revision in range(1, 5))
