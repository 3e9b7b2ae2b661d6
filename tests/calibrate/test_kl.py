"""KL multipliers and the target controller."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from astor_rl.calibrate.kl import CalibrateOptions, Calibrator, multipliers, standardise
from astor_rl.errors import ConfigError, StateError

Floats = NDArray[np.float64]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Floats, Floats, Floats]:
    """Utilities, errors and quotas of 1 to 8 tasks."""
    count = draw(st.integers(1, 8))
    column = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    weights = np.array(draw(column)) + 0.01
    return np.array(draw(column)), np.array(draw(column)) * 0.3, weights / weights.sum()


def calibrated(utility: Floats, se: Floats, quota: Floats, options: CalibrateOptions) -> Floats:
    z = standardise(utility, se, s0=options.s0, noise=options.noise)
    return multipliers(z, quota, options)


@given(st.floats(0, 2), st.integers(1, 8), st.floats(0, 1))
def test_equal_utilities_and_single_tasks_get_one(value: float, count: int, se: float) -> None:
    quota = np.full(count, 1 / count)
    for noise in ("shrink", "floor"):
        options = CalibrateOptions(noise=noise)  # type: ignore[arg-type]
        factors = calibrated(np.full(count, value), np.full(count, se), quota, options)
        np.testing.assert_allclose(factors, 1.0, atol=1e-12)
    single = calibrated(np.array([value]), np.array([se]), np.ones(1), CalibrateOptions())
    assert single.tolist() == [1.0]


@given(cases())
def test_weighted_geometric_mean_is_one_before_clipping(
    case: tuple[Floats, Floats, Floats],
) -> None:
    utility, se, quota = case
    options = CalibrateOptions(m_min=1e-9, m_max=1e9)
    factors = calibrated(utility, se, quota, options)
    assert float(quota @ np.log(factors)) == pytest.approx(0.0, abs=1e-9)
    z = standardise(utility, se, s0=options.s0)
    shape = np.log(factors) + options.kappa * z
    np.testing.assert_allclose(shape, shape[0], atol=1e-9)  # exp(-kappa z) up to one factor


@given(cases(), st.floats(0.1, 20))
def test_box_holds_and_the_mean_stays_one_inside_it(
    case: tuple[Floats, Floats, Floats], kappa: float
) -> None:
    utility, se, quota = case
    options = CalibrateOptions(kappa=kappa)
    factors = calibrated(utility, se, quota, options)
    assert (factors >= options.m_min - 1e-12).all()
    assert (factors <= options.m_max + 1e-12).all()
    assert float(quota @ np.log(factors)) == pytest.approx(0.0, abs=1e-9)


@given(cases())
@example((np.array([0.0, 8e-159]), np.array([0.0, 0.3]), np.array([0.5, 0.5])))
def test_high_utility_loosens_and_tighten_reverses(case: tuple[Floats, Floats, Floats]) -> None:
    utility, se, quota = case
    loose = calibrated(utility, se, quota, CalibrateOptions(m_min=1e-6, m_max=1e6))
    tight = calibrated(
        utility, se, quota, CalibrateOptions(m_min=1e-6, m_max=1e6, direction="tighten")
    )
    np.testing.assert_allclose(loose * tight, 1.0, rtol=1e-9)
    order = np.argsort(utility, kind="stable")
    assert (np.diff(loose[order]) <= 1e-12).all()


@given(st.floats(0, 1), st.floats(0.001, 0.3), st.floats(0, 1))
def test_two_tasks_closer_than_their_error_do_not_move(
    middle: float, se: float, part: float
) -> None:
    """The error of the difference of two utilities of error se is sqrt(2) se."""
    gap = part * math.sqrt(2) * se * 0.999
    utility = np.array([middle, middle + gap])
    factors = calibrated(utility, np.full(2, se), np.array([0.5, 0.5]), CalibrateOptions())
    np.testing.assert_allclose(factors, 1.0, atol=1e-12)


def test_large_differences_move_as_the_formula_says() -> None:
    utility, quota = np.array([0.2, 0.8]), np.array([0.5, 0.5])
    factors = calibrated(utility, np.zeros(2), quota, CalibrateOptions())
    z = 0.3 / (0.6 / math.sqrt(2))
    np.testing.assert_allclose(factors, [math.exp(0.7 * z), math.exp(-0.7 * z)])
    assert standardise(np.array([0.5, 0.51]), np.zeros(2), s0=0.05)[1] == pytest.approx(0.1)
    floored = standardise(utility, np.full(2, 0.6), s0=0.05, noise="floor")
    assert floored[1] == pytest.approx(0.5)


def test_a_spread_of_which_half_is_noise_counts_half() -> None:
    """sd^2 = 0.18 between 0.2 and 0.8, of which errors of 0 and sqrt(0.18) explain 0.09."""
    z = standardise(np.array([0.2, 0.8]), np.array([0.0, math.sqrt(0.18)]), s0=0.05)
    np.testing.assert_allclose(z, [-0.5 * 0.3 / math.sqrt(0.18), 0.5 * 0.3 / math.sqrt(0.18)])


def calibrate(calibrator: Calibrator, *, measured: bool = True) -> dict[str, float]:
    result = calibrator.calibrate(
        {"a": 0.001, "b": 0.01},
        np.array([0.2, 0.8]),
        np.zeros(2),
        np.array([0.5, 0.5]),
        measured=measured,
    )
    return {name: task.beta for name, task in result.items()}


def test_beta_is_base_times_multiplier() -> None:
    betas = calibrate(Calibrator("ab", CalibrateOptions()))
    assert betas["a"] / 0.001 == pytest.approx(0.01 / betas["b"])
    assert betas["a"] > 0.001


@pytest.mark.parametrize("mode", ["multiplier", "target"])
def test_warm_up_and_switching_off_keep_the_base(mode: str) -> None:
    base = {"a": 0.001, "b": 0.01}
    on = Calibrator("ab", CalibrateOptions(mode=mode))  # type: ignore[arg-type]
    off = Calibrator("ab", CalibrateOptions(mode=mode, enabled=False))  # type: ignore[arg-type]
    off.observe("a", 5.0)
    assert calibrate(on, measured=False) == base
    assert calibrate(off) == base


def test_controller_steps_as_ziegler_does() -> None:
    """KL 0.2, target 0.1, clip 0.2, horizon 10 of 10 updates: 0.2 becomes 0.204 (SkyRL's test)."""
    options = CalibrateOptions(mode="target", target=0.1, target_clip=0.2, target_horizon=10)
    calibrator = Calibrator("a", options)
    calibrator.observe("a", 0.2)
    task = calibrator.calibrate({"a": 0.2}, np.zeros(1), np.zeros(1), np.ones(1), measured=True)[
        "a"
    ]
    assert task.beta == pytest.approx(0.204)


def test_controller_brings_a_plant_to_its_scaled_target() -> None:
    """KL falls with beta; in the end it is target / m: the useful task may move further."""
    options = CalibrateOptions(mode="target", target=0.02, gain_min=0.01, gain_max=100)
    calibrator = Calibrator("ab", options)
    base = {"a": 0.001, "b": 0.001}
    z = standardise(np.array([0.2, 0.8]), np.zeros(2), s0=0.05)
    m = multipliers(z, np.array([0.5, 0.5]), options)
    kl = {"a": 0.0, "b": 0.0}
    for _ in range(400):
        tasks = calibrator.calibrate(
            base, np.array([0.2, 0.8]), np.zeros(2), np.array([0.5, 0.5]), measured=True
        )
        for name, strength in (("a", 4e-5), ("b", 1e-5)):
            kl[name] = strength / tasks[name].beta
            calibrator.observe(name, kl[name])
    assert kl["a"] == pytest.approx(0.02 / m[0], rel=0.01)
    assert kl["b"] == pytest.approx(0.02 / m[1], rel=0.01)
    assert kl["b"] > kl["a"]


def test_controller_has_nothing_to_unwind() -> None:
    """After any time at the box's wall, the first deviation of the other sign moves beta."""
    options = CalibrateOptions(mode="target", target=0.02)
    calibrator = Calibrator("a", options)
    for _ in range(1000):
        calibrator.observe("a", 10.0)
    assert calibrator.state_dict()["a"]["gain"] == options.gain_max
    calibrator.observe("a", 0.0)
    assert calibrator.state_dict()["a"]["gain"] < options.gain_max


def test_state_round_trip_is_exact_and_strict() -> None:
    calibrator = Calibrator("ab", CalibrateOptions(mode="target"))
    calibrator.observe("a", 0.5)
    calibrate(calibrator)
    again = Calibrator("ab", CalibrateOptions(mode="target"))
    again.load_state_dict(calibrator.state_dict())
    assert calibrate(again) == calibrate(calibrator)
    with pytest.raises(StateError, match="unknown"):
        Calibrator("a", CalibrateOptions()).load_state_dict(calibrator.state_dict())


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"mode": "off"}, "calibrate.mode is 'off'"),
        ({"direction": "up"}, "calibrate.direction is 'up'"),
        ({"noise": "none"}, "calibrate.noise is 'none'"),
        ({"m_min": 2.0}, r"calibrate.m_min is 2.0; it must be a finite number in \(0, 1\]"),
        ({"m_max": 0.5}, "calibrate.m_max is 0.5; it must be a finite number at least 1"),
        ({"s0": 0.0}, "calibrate.s0 is 0.0"),
        ({"target": 0.0}, "calibrate.target is 0.0"),
    ],
)
def test_bad_options_are_named(kwargs: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        CalibrateOptions(**kwargs)  # type: ignore[arg-type]
