"""Learning potential: closed forms, errors, scales, state."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import ConfigError, StateError
from astor_rl.utility.potential import Potential, PotentialOptions, group_variance

outcomes = st.lists(st.floats(0, 1), min_size=2, max_size=16)


@given(outcomes)
def test_group_variance_is_the_unbiased_sample_variance(values: list[float]) -> None:
    variance = group_variance(values)
    assert variance == pytest.approx(np.var(values, ddof=1), abs=1e-12)


@given(st.floats(0, 1), st.integers(2, 16))
def test_equal_rewards_have_a_variance_of_exactly_zero(value: float, size: int) -> None:
    assert group_variance([value] * size) == 0.0


def test_fewer_than_two_rewards_have_no_variance() -> None:
    assert group_variance([]) is None
    assert group_variance([1.0]) is None


@given(st.floats(0, 1), st.integers(2, 12))
def test_bernoulli_expectation_is_p_times_one_minus_p(p: float, size: int) -> None:
    """Exact: sum over the number of successes, for every group size."""
    expected = 0.0
    for wins in range(size + 1):
        chance = math.comb(size, wins) * p**wins * (1 - p) ** (size - wins)
        variance = group_variance([1.0] * wins + [0.0] * (size - wins))
        assert variance is not None
        expected += chance * variance
    assert expected == pytest.approx(p * (1 - p), abs=1e-12)


def test_estimate_converges_to_the_bernoulli_variance_in_range_units() -> None:
    rng = np.random.default_rng(0)
    potential = Potential(["a"], PotentialOptions(half_life=100))
    for revision in range(400):
        for _ in range(8):
            potential.observe("a", revision, (rng.random(8) < 0.2).astype(float).tolist())
    estimate = potential.estimate("a")
    assert estimate.value == pytest.approx(0.2 * 0.8 / 0.25, abs=4 * estimate.se)
    assert estimate.se < 0.02
    assert estimate.mean_outcome == pytest.approx(0.2, abs=0.02)


def test_standard_error_covers_the_truth() -> None:
    """A normal 95% interval around P covers the true value in about 95% of trials."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        potential = Potential(["a"], PotentialOptions(half_life=8))
        for revision in range(30):
            for _ in range(4):
                potential.observe("a", revision, (rng.random(8) < 0.4).astype(float).tolist())
        estimate = potential.estimate("a")
        covered += abs(estimate.value - 0.96) < 1.96 * estimate.se
    assert covered / 300 > 0.90


def test_evidence_halves_after_a_half_life() -> None:
    potential = Potential(["a"], PotentialOptions(half_life=8))
    potential.observe("a", 0, [0.0, 1.0])  # v = 0.5, 2 in units of 0.25
    potential.observe("a", 8, [1.0, 1.0])
    assert potential.estimate("a").value == pytest.approx(2 * 0.5 / 1.5)


def test_standard_error_in_closed_form() -> None:
    """Four equal weights: the sample variance of v pooled with two groups of spread 0.35."""
    potential = Potential(["a"], PotentialOptions())
    groups = [[0.0, 1.0], [0.5, 0.5], [0.2, 0.8], [1.0, 1.0]]
    for group in groups:
        potential.observe("a", 0, group)
    v = np.array([np.var(group, ddof=1) for group in groups]) / 0.25
    spread = (2 * 0.35**2 + 3 * np.var(v, ddof=1)) / (2 + 3)
    assert potential.estimate("a").se == pytest.approx(math.sqrt(spread / 4))


@given(st.permutations(range(6)))
def test_order_of_revisions_does_not_matter(order: list[int]) -> None:
    groups = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0, 0.2], [0.1, 0.9], [1.0, 1.0], [0.3, 0.4]]
    straight = Potential(["a"], PotentialOptions())
    shuffled = Potential(["a"], PotentialOptions())
    for revision in range(6):
        straight.observe("a", revision, groups[revision])
        shuffled.observe("a", order[revision], groups[order[revision]])
    first, second = straight.estimate("a"), shuffled.estimate("a")
    assert first.value == pytest.approx(second.value)
    assert first.se == pytest.approx(second.se)
    assert first.revision == second.revision == 5


def test_all_equal_groups_are_not_certainty() -> None:
    potential = Potential(["a"], PotentialOptions())
    errors = []
    for revision in range(30):
        potential.observe("a", revision, [0.0] * 8)
        errors.append(potential.estimate("a").se)
    assert potential.estimate("a").value == 0.0
    assert errors[0] > errors[5] > errors[20] > 0.005


def test_a_group_without_two_valid_rollouts_says_nothing() -> None:
    potential = Potential(["a"], PotentialOptions())
    potential.observe("a", 0, [1.0])
    potential.observe("a", 0, [])
    estimate = potential.estimate("a")
    assert (estimate.groups, estimate.revision, estimate.mean_outcome) == (0, None, None)
    assert estimate.se == pytest.approx(0.35)


def test_task_rms_is_frozen_then_only_raised() -> None:
    """A task that gets solved must look solved: its divisor stays when its variance falls."""
    options = PotentialOptions(half_life=2, scale="task_rms", rms_floor=0.1)
    potential = Potential(["a"], options)
    mixed, narrow = [0.0, 1.0] * 4, [1.0] * 8
    potential.observe("a", 0, mixed)
    assert potential.estimate("a").value == pytest.approx(8 / 7)  # `range` until frozen
    potential.freeze_scales()
    assert potential.estimate("a").value == pytest.approx((2 / 7) / 0.25)
    for revision in range(1, 40):
        potential.observe("a", revision, narrow)
        potential.freeze_scales()
    assert potential.estimate("a").value < 1e-4
    for revision in range(40, 80):
        potential.observe("a", revision, [0.4, 0.6] * 4)
        potential.freeze_scales()
    assert potential.estimate("a").value == pytest.approx((0.08 / 7) / 0.25, rel=1e-3)


def test_task_rms_rises_when_a_task_opens_up_and_is_floored_before() -> None:
    options = PotentialOptions(half_life=2, scale="task_rms", rms_floor=0.1)
    potential = Potential(["a"], options)
    potential.observe("a", 0, [0.0, 0.1])
    potential.freeze_scales()
    assert potential.estimate("a").value == pytest.approx(0.005 / 0.025)  # floor: 0.1 * 0.25
    for revision in range(1, 60):
        potential.observe("a", revision, [0.0, 1.0] * 4)
        potential.freeze_scales()
    assert potential.estimate("a").value == pytest.approx((2 / 7) / 0.25, rel=1e-3)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=8), min_size=1, max_size=9))
def test_task_rms_does_not_depend_on_the_units_of_the_reward(groups: list[list[bool]]) -> None:
    """Neither the value nor its error, of which a prior in other units would make more or less."""
    potential = Potential(["whole", "half"], PotentialOptions(rms_floor=1e-9))
    for group in groups:
        potential.observe("whole", 0, [float(each) for each in group])
        potential.observe("half", 0, [each / 2 for each in group])
    potential.freeze_scales()
    whole, half = potential.estimate("whole"), potential.estimate("half")
    if len({each for group in groups for each in group}) > 1:  # else nothing varies
        assert (half.value, half.se) == pytest.approx((whole.value, whole.se))


def test_state_round_trip_is_exact_and_strict() -> None:
    potential = Potential(["a", "b"], PotentialOptions())
    potential.observe("a", 3, [0.0, 1.0, 0.3])
    again = Potential(["a", "b"], PotentialOptions())
    again.load_state_dict(potential.state_dict())
    for each in (potential, again):
        each.observe("a", 5, [0.2, 0.3])
    assert again.state_dict() == potential.state_dict()
    with pytest.raises(StateError, match=r"missing \['c'\]"):
        Potential(["a", "b", "c"], PotentialOptions()).load_state_dict(potential.state_dict())
    broken = potential.state_dict()
    del broken["a"]["weight"]
    with pytest.raises(StateError, match="weight"):
        again.load_state_dict(broken)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"half_life": 0.0}, "potential.half_life is 0.0; it must be a finite number above 0"),
        ({"half_life": math.nan}, "potential.half_life"),
        ({"scale": "rms"}, "potential.scale is 'rms'; it must be one of range, task_rms"),
        ({"prior_groups": -1.0}, "potential.prior_groups"),
        ({"prior_sd": 0.0}, "potential.prior_sd"),
        ({"rms_floor": 0.0}, "potential.rms_floor"),
    ],
)
def test_bad_options_are_named(kwargs: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PotentialOptions(**kwargs)  # type: ignore[arg-type]
