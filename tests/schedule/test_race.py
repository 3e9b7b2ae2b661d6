"""The race has the winners, and the times, of one exponential clock for each candidate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astor_rl.schedule.race import first_arrivals


def plackett_luce(weights: np.ndarray, order: tuple[int, ...]) -> float:
    """The chance that the first clocks to ring are these, in this order (closed form)."""
    chance, left = 1.0, float(weights.sum())
    for place in order:
        chance *= weights[place] / left
        left -= weights[place]
    return chance


def test_orders_have_their_closed_form_chances() -> None:
    weights = np.array([4.0, 1.0, 0.5, 0.0, 2.5])
    rng, trials = np.random.default_rng(0), 20_000
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(trials):
        _, places = first_arrivals(weights.copy(), 3, rng)
        order = tuple(places.tolist())
        counts[order] = counts.get(order, 0) + 1
    possible = list(itertools.permutations((0, 1, 2, 4), 3))
    assert set(counts) <= set(possible)
    expected = np.array([trials * plackett_luce(weights, order) for order in possible])
    observed = np.array([counts.get(order, 0) for order in possible])
    chi2 = ((observed - expected) ** 2 / expected).sum()
    assert chi2 < 49.7  # 0.999 quantile at 23 degrees of freedom


def test_times_are_those_of_the_clocks() -> None:
    """First, second and third ring: means of sums of exponentials of the rates still running."""
    weights, rng = np.full(50, 2.0), np.random.default_rng(1)
    times = np.array([first_arrivals(weights.copy(), 3, rng)[0] for _ in range(20_000)])
    gaps = np.diff(times, axis=1, prepend=0.0)
    np.testing.assert_allclose(gaps.mean(axis=0), [1 / 100, 1 / 98, 1 / 96], rtol=0.03)
    np.testing.assert_allclose(gaps.std(axis=0), [1 / 100, 1 / 98, 1 / 96], rtol=0.03)


def test_a_giant_does_not_keep_the_others_from_winning() -> None:
    """Its arrivals fill the first batch; the race goes on without it."""
    weights = np.full(100, 1e-12)
    weights[7] = 1.0
    times, places = first_arrivals(weights, 40, np.random.default_rng(2))
    assert places[0] == 7
    assert len(set(places.tolist())) == 40
    assert times[1] > 1e6 * times[0]


@settings(max_examples=60)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-150, 1e-6, 1.0, 3.0]), min_size=1, max_size=30),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_winners_differ_can_win_and_come_in_order(
    weights: list[float], seed: int, data: st.DataObject
) -> None:
    able = sum(weight > 0 for weight in weights)
    count = data.draw(st.integers(0, able))
    times, places = first_arrivals(np.array(weights), count, np.random.default_rng(seed))
    assert len(times) == len(places) == count
    assert len(set(places.tolist())) == count
    assert all(weights[place] > 0 for place in places)
    assert (np.diff(times) >= 0).all()


def test_the_same_generator_gives_the_same_race() -> None:
    weights = np.linspace(0.1, 1, 200)
    one = first_arrivals(weights.copy(), 20, np.random.default_rng(3))
    two = first_arrivals(weights.copy(), 20, np.random.default_rng(3))
    assert one[0].tolist() == two[0].tolist()
    assert one[1].tolist() == two[1].tolist()
    assert first_arrivals(weights.copy(), 0, np.random.default_rng(3))[0].tolist() == []
    assert pytest.approx(one[0][0]) != first_arrivals(weights, 1, np.random.default_rng(4))[0][0]
