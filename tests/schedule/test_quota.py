"""Quotas: sums, long-run shares, neutrality, equivariance, noise correction, availability."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from astor_rl.errors import ConfigError, PlanError
from astor_rl.schedule.quota import (
    ScheduleOptions,
    apportion,
    carry_bound,
    mix_floor,
    utility_shares,
)

Floats = NDArray[np.float64]


@st.composite
def mixtures(draw: st.DrawFn, low: int = 1, high: int = 7) -> Floats:
    weights = draw(st.lists(st.floats(0.05, 10), min_size=low, max_size=high))
    return np.array(weights) / sum(weights)


@given(mixtures(), st.floats(-2, 2), st.floats(0, 1), st.floats(0.05, 3), st.floats(0, 1))
def test_equal_utilities_give_the_base_mixture(
    mixture: Floats, utility: float, se: float, tau: float, eps: float
) -> None:
    count = len(mixture)
    shares = utility_shares(mixture, np.full(count, utility), np.full(count, se), tau=tau)
    np.testing.assert_allclose(mix_floor(shares, mixture, eps), mixture, atol=1e-14)


@given(mixtures(low=2), st.data())
def test_relabelling_tasks_relabels_shares_and_quotas(mixture: Floats, data: st.DataObject) -> None:
    count = len(mixture)
    floats = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    utility, se = np.array(data.draw(floats)), np.array(data.draw(floats))
    order = np.array(data.draw(st.permutations(range(count))))
    shares = utility_shares(mixture, utility, se, tau=0.25)
    moved = utility_shares(mixture[order], utility[order], se[order], tau=0.25)
    np.testing.assert_allclose(moved, shares[order], rtol=1e-12)
    fractions = np.round((16 * shares) % 1, 6)
    assume(len(set(fractions.tolist())) == count)  # ties go by position, here they can't
    straight = apportion(shares, 16, np.zeros(count)).counts
    np.testing.assert_array_equal(apportion(moved, 16, np.zeros(count)).counts, straight[order])


def test_noise_correction_undoes_the_softmax_taste_for_noise() -> None:
    """Two tasks of equal true utility, one measured badly: odds are even on average (in odds)."""
    rng = np.random.default_rng(0)
    tau, se = 0.25, 0.2
    mixture = np.array([0.5, 0.5])
    odds, plain = [], []
    for _ in range(40_000):
        utility = np.array([0.5, 0.5 + rng.normal(0, se)])
        share = utility_shares(mixture, utility, np.array([0.0, se]), tau=tau)
        odds.append(share[1] / share[0])
        share = utility_shares(mixture, utility, np.zeros(2), tau=tau)
        plain.append(share[1] / share[0])
    assert np.mean(odds) == pytest.approx(1.0, abs=0.03)
    assert np.mean(plain) == pytest.approx(math.exp(se**2 / (2 * tau**2)), rel=0.05)


def test_floor_holds_whatever_the_utilities() -> None:
    mixture = np.array([0.7, 0.2, 0.1])
    shares = utility_shares(mixture, np.array([0.0, 500.0, 0.0]), np.zeros(3), tau=0.25)
    np.testing.assert_allclose(mix_floor(shares, mixture, 0.2), [0.14, 0.84, 0.02], atol=1e-12)


def test_cost_divides_shares() -> None:
    mixture = np.array([0.5, 0.5])
    shares = utility_shares(
        mixture, np.zeros(2), np.zeros(2), tau=0.25, cost=np.array([100.0, 300.0])
    )
    np.testing.assert_allclose(shares, [0.75, 0.25])


@settings(max_examples=60)
@given(mixtures(high=12), st.integers(1, 40), st.integers(0, 10**6), st.booleans())
def test_sum_is_exact_and_carry_stays_in_its_bound(
    mixture: Floats, total: int, seed: int, drifting: bool
) -> None:
    """Long-run shares follow the quotas within the carry bound, also when quotas move."""
    rng = np.random.default_rng(seed)
    carry, owed = np.zeros(len(mixture)), np.zeros(len(mixture))
    given_out = np.zeros(len(mixture))
    shares = mixture
    for _ in range(60):
        if drifting:
            weights = mixture * np.exp(rng.normal(0, 2, len(mixture)))
            shares = weights / weights.sum()
        step = apportion(shares, total, carry)
        assert step.counts.sum() == total
        assert (step.counts >= 0).all()
        carry = step.carry
        owed += total * shares
        given_out += step.counts
        np.testing.assert_allclose(owed - given_out, carry, atol=1e-8)
        assert (carry > -1 - 1e-8).all()
        assert (carry <= carry_bound(len(mixture)) + 1e-8).all()


@pytest.mark.parametrize(
    ("tasks", "bound"), [(1, 1.0), (2, 1.0), (3, 1.0), (4, 13 / 12), (6, 1.45)]
)
def test_the_bound_is_a_harmonic_number_less_one(tasks: int, bound: float) -> None:
    """H_4 = 25/12 and H_6 = 2.45; up to three tasks it would be below 1."""
    assert carry_bound(tasks) == pytest.approx(bound)


@given(mixtures(low=2), st.integers(1, 60))
def test_without_carry_it_is_the_largest_remainder_method(mixture: Floats, total: int) -> None:
    quota = np.round(mixture * total, 9)
    counts = apportion(mixture, total, np.zeros(len(mixture))).counts
    floor = np.floor(quota)
    assert set((counts - floor).tolist()) <= {0.0, 1.0}
    up, down = counts > floor, counts == floor
    if up.any() and down.any():
        assert (quota - floor)[up].min() >= (quota - floor)[down].max() - 1e-9


@given(mixtures(high=12), st.integers(1, 40), st.data())
def test_prompts_go_one_by_one_to_the_furthest_behind(
    mixture: Floats, total: int, data: st.DataObject
) -> None:
    """The definition, followed literally."""
    owed = st.floats(-0.99, 1.5)
    carry = np.array(data.draw(st.lists(owed, min_size=len(mixture), max_size=len(mixture))))
    target = mixture * total + carry
    counts = np.maximum(np.floor(np.round(target, 9)), 0.0)
    while counts.sum() != total:
        behind = np.round(target - counts, 9)
        if counts.sum() < total:
            counts[np.argmax(behind)] += 1
        else:
            counts[np.argmin(np.where(counts > 0, behind, np.inf))] -= 1
    assert apportion(mixture, total, carry).counts.tolist() == counts.tolist()


@given(mixtures(low=2), st.integers(1, 60), st.data())
def test_caps_are_kept_and_the_rest_is_shared_proportionally(
    mixture: Floats, total: int, data: st.DataObject
) -> None:
    count = len(mixture)
    caps = np.array(
        data.draw(st.lists(st.integers(0, 60), min_size=count, max_size=count)), dtype=float
    )
    assume(caps.sum() >= total)
    step = apportion(mixture, total, np.zeros(count), caps)
    assert step.counts.sum() == total
    assert (step.counts <= caps).all()
    open_ = np.flatnonzero(step.counts + 1 < caps)
    # Tasks well below their caps keep their proportions up to rounding.
    for i in open_:
        for j in open_:
            ratio = mixture[i] / mixture[j]
            assert step.counts[i] <= (step.counts[j] + 1) * ratio + 1 + 1e-6


def test_what_a_capped_task_is_owed_goes_to_the_others_one_by_one() -> None:
    """Quotas 1 (the cap), 2.5 and 2.5; with the carry 2, 1.6 and 1.6. After whole prompts three are
    missing and two tasks wait: b, c, then b again, being the earlier of two that are 0.4 ahead.
    """
    step = apportion(
        np.full(3, 1 / 3), 6, np.array([1.0, -0.9, -0.9]), np.array([1.0, np.inf, np.inf])
    )
    assert step.counts.tolist() == [1, 3, 2]
    np.testing.assert_allclose(step.carry, [1.0, -1.0, -0.4])  # 1.6 - 3, but no more than 1 ahead


def test_unspent_share_never_becomes_debt() -> None:
    """A task that was out of prompts for long gets no more than its quota when it is back."""
    shares, carry = np.array([0.5, 0.3, 0.2]), np.zeros(3)
    for _ in range(50):
        step = apportion(shares, 10, carry, np.array([0.0, np.inf, np.inf]))
        assert step.counts[0] == 0
        carry = step.carry
    assert apportion(shares, 10, carry).counts[0] <= 6


def test_a_share_that_underflowed_still_takes_what_others_cannot() -> None:
    shares = np.array([1.0, 0.0, 0.0])
    step = apportion(shares, 8, np.zeros(3), np.array([2.0, 10.0, 10.0]))
    assert step.counts.tolist() == [2, 3, 3]


def test_more_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(PlanError, match="9 prompts are wanted and 8 are available"):
        apportion(np.array([0.5, 0.5]), 9, np.zeros(2), np.array([4.0, 4.0]))


def test_bad_options_are_named() -> None:
    for kwargs, text in [
        ({"tau": 0.0}, "schedule.tau is 0.0"),
        ({"tau": 1e-200}, "schedule.tau is 1e-200"),
        ({"mix": 1.5}, r"schedule.mix is 1.5; it must be a finite number in \[0, 1\]"),
        ({"warmup_steps": -1}, "schedule.warmup_steps is -1"),
        ({"min_groups": 0}, "schedule.min_groups is 0"),
    ]:
        with pytest.raises(ConfigError, match=text):
            ScheduleOptions(**kwargs)  # type: ignore[arg-type]
