"""Module 2: how tightly each task is held to the reference policy (docs/method.md, Module 2).

    z_k = (U_k - mean U) / max(sd U, s0)        shrunk by its noise, see `standardise`
    m_k = c exp(-kappa z_k), clipped to [m_min, m_max]
    beta_k(t) = beta_k m_k

c makes the quota-weighted geometric mean of m equal 1, so calibration redistributes the
constraint instead of strengthening it on average. High utility loosens (the task is learning: let
it move); `direction = "tighten"` reverses that. The paper's own direction is not public.

In `target` mode a controller per task holds the measured KL near a target instead, and 1 / m_k
scales the target: an integrator would cancel a multiplier on beta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_choice, check_keys, check_number

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """Module 2.

    Attributes:
        enabled: else every task keeps its base beta.
        mode: `multiplier` scales beta by utility; `target` controls the measured KL.
        kappa: strength: one standard deviation of utility scales beta by exp(-kappa).
        m_min, m_max: the multiplier's box, around 1.
        s0: least spread of utility that counts as one standard deviation.
        direction: what high utility does to the constraint.
        normalise: divide the multipliers by their quota-weighted geometric mean, so that the
            constraint is redistributed; else exp(-kappa z) is only kept in the box.
        noise: `shrink` multiplies z by the part of the spread that its error does not explain;
            `floor` only puts the pooled error under the spread.
        target: mean per-token KL to the reference that `target` mode holds, nats.
        target_clip: most relative deviation from the target that one update reacts to.
        target_horizon: updates in which a deviation is worked off.
        gain_min, gain_max: the controller's box, around 1, as a factor on the base beta.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    enabled: bool = True
    mode: Literal["multiplier", "target"] = "multiplier"
    kappa: float = 0.7
    m_min: float = 0.25
    m_max: float = 4.0
    s0: float = 0.05
    direction: Literal["loosen", "tighten"] = "loosen"
    normalise: bool = True
    noise: Literal["shrink", "floor"] = "shrink"
    target: float = 0.02
    target_clip: float = 0.2
    target_horizon: float = 5.0
    gain_min: float = 0.1
    gain_max: float = 10.0

    def __post_init__(self) -> None:
        check_choice("calibrate.mode", self.mode, ("multiplier", "target"))
        check_choice("calibrate.direction", self.direction, ("loosen", "tighten"))
        check_choice("calibrate.noise", self.noise, ("shrink", "floor"))
        check_number("calibrate.kappa", self.kappa, low=0)
        check_number("calibrate.s0", self.s0, low=0, above=True)
        check_number("calibrate.target", self.target, low=0, above=True)
        check_number("calibrate.target_clip", self.target_clip, low=0, high=1, above=True)
        check_number("calibrate.target_horizon", self.target_horizon, low=1)
        for low, high in (("m_min", "m_max"), ("gain_min", "gain_max")):
            check_number(f"calibrate.{low}", getattr(self, low), low=0, high=1, above=True)
            check_number(f"calibrate.{high}", getattr(self, high), low=1)


def standardise(
    utility: FloatArray, se: FloatArray, *, s0: float, noise: Literal["shrink", "floor"] = "shrink"
) -> FloatArray:
    """z: utilities in standard deviations from their mean, [K]; 0 for a single task.

    With `shrink`, z is multiplied by max(0, 1 - SE^2 / sd^2), SE the pooled error and sd^2 the
    unbiased variance between tasks: E sd^2 = signal + SE^2, so this is the part of the spread that
    is signal. Two tasks closer than the error of their difference get exactly 0, where a floor
    under the spread alone would still move them by up to half a standard deviation.
    """
    if len(utility) < 2:
        return np.zeros(len(utility))
    spread = float(np.std(utility, ddof=1))
    pooled = math.sqrt(float(np.mean(np.square(se))))
    centred = utility - utility.mean()
    if noise == "floor":
        return np.asarray(centred / max(spread, s0, pooled), dtype=np.float64)
    # Compared before it is squared: a spread of almost nothing would overflow.
    signal = 1 - (pooled / spread) ** 2 if spread > pooled else 0.0
    return np.asarray(centred / max(spread, s0) * signal, dtype=np.float64)


def multipliers(z: FloatArray, quota: FloatArray, options: CalibrateOptions) -> FloatArray:
    """m, [K]: exp(-kappa z) scaled so that its quota-weighted geometric mean is 1, in the box.

    Where the box clips, the scale is solved for again, so the mean stays 1 inside the box too.

    Args:
        z: from `standardise`, [K].
        quota: q', [K], sums to 1.
        options: kappa, the box and the direction.
    """
    sign = -1.0 if options.direction == "loosen" else 1.0
    wish = sign * options.kappa * z
    low, high = math.log(options.m_min), math.log(options.m_max)
    if not options.normalise:
        return np.asarray(np.exp(np.clip(wish, low, high)), dtype=np.float64)
    wish = wish - float(quota @ wish)
    if wish.min() >= low and wish.max() <= high:
        return np.asarray(np.exp(wish), dtype=np.float64)
    # The mean of the clipped logarithms grows with the shift, from low <= 0 to high >= 0.
    left, right = low - float(wish.max()), high - float(wish.min())
    for _ in range(80):
        middle = (left + right) / 2
        if float(quota @ np.clip(wish + middle, low, high)) > 0:
            right = middle
        else:
            left = middle
    return np.asarray(np.exp(np.clip(wish + (left + right) / 2, low, high)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class TaskCalibration:
    """One task's KL coefficient in one plan.

    Attributes:
        beta: what the loss uses.
        factor: beta over the task's base beta: m_k, or the controller's gain in `target` mode.
        z: the standardised utility.
    """

    beta: float
    factor: float
    z: float


@dataclass(slots=True)
class _Controller:
    """A task's integrator: `gain` multiplies beta, `constraint` is the m that scales the target."""

    gain: float = 1.0
    constraint: float = 1.0


class Calibrator:
    """Per-task KL coefficients from the utility snapshot."""

    def __init__(self, tasks: Sequence[str], options: CalibrateOptions) -> None:
        self._options = options
        self._tasks = {name: _Controller() for name in tasks}

    def add_task(self, name: str) -> None:
        """Calibrate a new task too."""
        self._tasks[name] = _Controller()

    def calibrate(
        self,
        beta: Mapping[str, float],
        utility: FloatArray,
        se: FloatArray,
        quota: FloatArray,
        *,
        measured: bool,
    ) -> dict[str, TaskCalibration]:
        """Coefficients for the next plan.

        Args:
            beta: base beta by task; its order is that of the arrays.
            utility, se, quota: U, its error and q', [K]. A task whose share is 0 (it has no
                prompts) keeps its base beta and has no part in the others'.
            measured: False during warm-up: no task is judged before all are measured.
        """
        options = self._options
        z, factors = np.zeros(len(beta)), np.ones(len(beta))
        taking = quota > 0
        if options.enabled and measured and taking.any():
            z[taking] = standardise(utility[taking], se[taking], s0=options.s0, noise=options.noise)
            factors[taking] = multipliers(z[taking], quota[taking], options)
        result = {}
        for k, (name, base) in enumerate(beta.items()):
            factor = float(factors[k])
            if options.enabled and options.mode == "target":
                self._tasks[name].constraint = factor
                factor = self._tasks[name].gain
            result[name] = TaskCalibration(base * factor, factor, float(z[k]))
        return result

    def observe(self, task: str, kl: float) -> None:
        """Step a task's controller by its measured KL (`target` mode only).

        gain *= 1 + clip(KL / target_k - 1, +-target_clip) / target_horizon (Ziegler et al. 2019,
        arXiv 1909.08593, section 2.2), kept in its box. The box bounds the integral itself, so a
        target that can't be reached leaves nothing to unwind.

        Args:
            task: its name.
            kl: mean per-token KL to the reference, nats, finite.
        """
        options = self._options
        if not (options.enabled and options.mode == "target"):
            return
        controller = self._tasks[task]
        error = kl * controller.constraint / options.target - 1
        error = min(max(error, -options.target_clip), options.target_clip)
        gain = controller.gain * (1 + error / options.target_horizon)
        controller.gain = min(max(gain, options.gain_min), options.gain_max)

    def state_dict(self) -> dict[str, Any]:
        """Every task's controller, JSON-ready."""
        return {name: asdict(controller) for name, controller in self._tasks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`; its tasks must be this object's.

        Raises:
            StateError: tasks or entries differ; they are named.
        """
        check_keys("calibration", state, self._tasks)
        names = [field.name for field in fields(_Controller)]
        for name, entries in state.items():
            check_keys(f"calibration of {name}", entries, names)
        self._tasks = {name: _Controller(**state[name]) for name in self._tasks}
