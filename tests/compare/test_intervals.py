"""Intervals against known tables, closed forms, and simulations of what they promise."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from astor_rl.compare.intervals import (
    Interval,
    against_best,
    gain_interval,
    kendalls_w,
    mean_interval,
    ranks,
    sidak,
    t_quantile,
    t_within,
    verdict,
)


@pytest.mark.parametrize(
    ("df", "two_sided_95", "two_sided_99"),
    [  # any printed table of Student's t
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (9, 2.262, 3.250),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (120, 1.980, 2.617),
    ],
)
def test_quantiles_are_those_of_the_tables(df: int, two_sided_95: float, two_sided_99: float):
    assert t_quantile(0.95, df) == pytest.approx(two_sided_95, abs=5e-4)
    assert t_quantile(0.99, df) == pytest.approx(two_sided_99, abs=5e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 5.0, 80.0])
def test_the_distribution_has_its_closed_forms(t: float):
    assert t_within(t, 1) == pytest.approx(2 / math.pi * math.atan(t))  # Cauchy
    assert t_within(t, 2) == pytest.approx(t / math.sqrt(2 + t * t))
    assert t_within(t, 4) == pytest.approx(t * (t * t + 6) / (t * t + 4) ** 1.5)
    normal = math.erf(t / math.sqrt(2))
    assert t_within(t, 100_000) == pytest.approx(normal, abs=1e-5)


@pytest.mark.parametrize("inside", [0.5, 0.95, 0.99995])
@pytest.mark.parametrize("df", [1, 2, 3, 7, 40])
def test_the_quantile_inverts_the_distribution(inside: float, df: int):
    assert t_within(t_quantile(inside, df), df) == pytest.approx(inside, abs=1e-12)


def test_a_mean_and_its_interval():
    found = mean_interval([1.0, 2.0, 4.0])
    # sd = sqrt(7/3), half = 4.302653 * sd / sqrt(3)
    half = 4.302653 * math.sqrt(7 / 3) / math.sqrt(3)
    assert found.mean == pytest.approx(7 / 3)
    assert found.low == pytest.approx(7 / 3 - half, abs=1e-5)
    assert found.high == pytest.approx(7 / 3 + half, abs=1e-5)
    assert found.seeds == 3


def test_one_seed_has_no_interval():
    assert mean_interval([0.4]) == Interval(0.4, None, None, 1)
    gain = gain_interval([0.6], [0.5])
    assert gain is not None
    assert (gain.low, gain.high) == (None, None)
    assert gain.mean == pytest.approx(20)


def test_a_gain_reads_the_same_backwards():
    ours, theirs = [0.62, 0.58, 0.66], [0.5, 0.52, 0.55]
    ahead, behind = gain_interval(ours, theirs), gain_interval(theirs, ours)
    assert ahead is not None
    assert behind is not None
    assert ahead.low is not None
    assert behind.high is not None
    assert (1 + ahead.mean / 100) * (1 + behind.mean / 100) == pytest.approx(1)
    assert (1 + ahead.low / 100) * (1 + behind.high / 100) == pytest.approx(1)


def test_a_constant_ratio_has_an_interval_without_width():
    gain = gain_interval([0.55, 0.66, 0.44], [0.5, 0.6, 0.4])
    assert gain is not None
    assert (gain.mean, gain.low, gain.high) == pytest.approx((10, 10, 10))


@pytest.mark.parametrize("scores", [([], []), ([0.0], [0.5]), ([0.5, 0.5], [0.5, 0.0])])
def test_no_ratio_without_scores_above_zero(scores: tuple[list[float], list[float]]):
    assert gain_interval(*scores) is None


def covers(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("n", [3, 5, 10])
def test_gains_cover_the_ratio_of_means(n: int):
    """Scores as seeds give them: 4% of spread, three quarters of it shared by the pair."""
    rng = np.random.default_rng(n)
    trials, hits = 2000, 0
    for _ in range(trials):
        shared = rng.standard_normal(n) * math.sqrt(0.75)
        ours, theirs = (
            level * (1 + 0.04 * (shared + 0.5 * rng.standard_normal(n))) for level in (0.56, 0.50)
        )
        hits += covers(gain_interval(list(ours), list(theirs)), 100 * (0.56 / 0.50 - 1))
    # Three standard errors of a share of 0.95 in so many trials.
    assert hits / trials == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / trials))


@pytest.mark.parametrize(("n", "arms"), [(3, 2), (3, 8), (5, 4), (10, 8)])
@pytest.mark.parametrize("independence", [1.0, 0.1])
def test_simultaneous_gains_cover_the_gain_over_the_best(n: int, arms: int, independence: float):
    """Several arms near each other, so that which one looks best is chance."""
    rng = np.random.default_rng(n * 100 + arms)
    true_gains = np.log(1.1) + 0.01 * np.arange(arms) / arms
    least = 100 * math.expm1(true_gains.min())
    trials, together, best, above = 800, 0, 0, 0
    for _ in range(trials):
        ours = 0.04 * rng.standard_normal(n)
        common = math.sqrt(1 - independence) * rng.standard_normal(n)
        alone, gains = [], []
        for gain in true_gains:
            own = math.sqrt(independence) * rng.standard_normal(n)
            pair = list(np.exp(ours)), list(np.exp(ours - gain + 0.04 * (common + own)))
            one, wide = gain_interval(*pair), gain_interval(*pair, level=sidak(arms))
            assert one is not None
            assert wide is not None
            alone.append(one)
            gains.append(wide)
        held = [covers(g, 100 * math.expm1(t)) for g, t in zip(gains, true_gains, strict=True)]
        together += all(held)
        found = against_best(alone, gains)
        best += covers(found, least)
        above += found.low is not None and found.low > least
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert together / trials >= 0.95 - slack
    assert best / trials >= 0.95 - slack
    # Each end errs in at most a fortieth, whatever the number of arms.
    assert above / trials <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / trials)


def test_choosing_the_best_and_its_own_interval_would_not_do():
    """Why `against_best` exists: the arm that looked best was chosen by its noise."""
    rng = np.random.default_rng(0)
    trials, chosen, proper = 1500, 0, 0
    for _ in range(trials):
        scores = [list(np.exp(0.05 * rng.standard_normal(5))) for _ in range(10)]
        alone = [gain for ours in scores if (gain := gain_interval(ours, [1.0] * 5))]
        wide = [
            gain for ours in scores if (gain := gain_interval(ours, [1.0] * 5, level=sidak(10)))
        ]
        chosen += covers(min(alone, key=lambda gain: gain.mean), 0.0)
        proper += covers(against_best(alone, wide), 0.0)
    assert chosen / trials < 0.9
    assert proper / trials > 0.935


def test_sidak_of_one_is_the_level_itself():
    assert sidak(1) == pytest.approx(0.95)
    assert sidak(5) ** 5 == pytest.approx(0.95)


def test_against_the_best_without_an_interval():
    one_seed = Interval(3.0, None, None, 1)
    gains = [one_seed, Interval(5.0, 1.0, 9.0, 3)]
    assert against_best(gains, gains) == Interval(3.0, None, None, 1)


def test_scores_that_differ_by_orders_of_magnitude_have_finite_ends():
    found = gain_interval([0.4, 0.4], [0.4, 0.0004], level=sidak(20))
    assert found is not None
    assert found.high is not None
    assert math.isfinite(found.high)


def test_ranks_share_ties():
    assert ranks([0.5, 0.9, 0.5, 0.1]) == [2.5, 1, 2.5, 4]
    assert ranks([]) == []


def test_kendalls_w():
    assert kendalls_w([[1, 2, 3], [1, 2, 3], [1, 2, 3]]) == pytest.approx(1)
    assert kendalls_w([[1, 2, 3], [3, 2, 1]]) == pytest.approx(0)
    # Kendall and Gibbons' example: three judges, six objects, W = 0.16.
    judged = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    assert kendalls_w(judged) == pytest.approx(0.1619, abs=5e-5)
    # With ties: equal judges agree wholly, whatever ties they have.
    assert kendalls_w([[1.5, 1.5, 3], [1.5, 1.5, 3]]) == pytest.approx(1)


@pytest.mark.parametrize("table", [[], [[1, 2]], [[1], [1]], [[1.5, 1.5], [1.5, 1.5]]])
def test_no_agreement_where_there_is_nothing_to_agree_on(table: list[list[float]]):
    assert kendalls_w(table) is None


def test_kendalls_w_of_random_orders_is_near_one_by_judges():
    rng = random.Random(0)
    found = [
        kendalls_w([rng.sample([1.0, 2.0, 3.0, 4.0, 5.0], 5) for _ in range(10)])
        for _ in range(400)
    ]
    assert np.mean([w for w in found if w is not None]) == pytest.approx(0.1, abs=0.01)


def test_two_seeds_call_nobody_ahead() -> None:
    assert verdict(0.1, 0.2, 2) == "too few seeds to tell"
    assert verdict(None, None, 1) == "too few seeds to tell"
    assert verdict(0.1, 0.2, 3) == "ahead"
    assert verdict(-0.2, -0.1, 3) == "behind"
    assert verdict(-0.1, 0.2, 3) == "not told apart"
