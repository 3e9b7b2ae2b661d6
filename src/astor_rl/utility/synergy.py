"""Cross-task synergy: do two tasks pull the policy the same way? (docs/method.md, Synergy)

The cosine of two *measured* gradients is biased to zero by their noise, and published cosines of
RL task gradients (0.002-0.016) are far below the noise of one batch. So the norms in the
denominator are estimated without it, from two random halves of each task's groups:

    N_kj = <g_k, g_j>            D_k = <g_k^a, g_k^b>, E D_k = |E g_k|^2
    c_kj = N_kj / sqrt(D_k D_j)  each averaged over the probe steps that k and j share

which is consistent, not unbiased. Its standard error is a block jackknife over probe steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_choice, check_count, check_keys, check_number
from astor_rl.errors import PlanError, StateError
from astor_rl.plan import GradientProbe

FloatArray = NDArray[np.float64]

BLOCKS = 32
"""Jackknife blocks a pair. A probe step falls into block (its number mod BLOCKS)."""

MIN_PROBES = 4
"""Joint probe steps before a pair can be resolved: fewer give no usable standard error. They must
lie in so many blocks, too: the error is read off what differs between blocks."""


@dataclass(frozen=True, slots=True)
class SynergyOptions:
    """How cross-task synergy is measured.

    Attributes:
        enabled: measure it at all; without it S = 0 for every task and no step is a probe.
        every: probe steps are this many revisions apart.
        half_life: joint probe steps after which a probe weighs half.
        gradient: `policy` is the policy term's gradient; `total` adds the KL term, a pull that
            all tasks share and that looks like synergy. Read by the engine.
        sketch_dim: dimensions of the CountSketch that the engine uses beyond `memory_limit_mb`.
        memory_limit_mb: memory the engine may spend on half-gradients before it sketches, MiB.
        estimator: `corrected` estimates norms from two halves, without their noise; `plain` is
            the cosine of whole-batch gradients, which noise pulls to 0.
        shrink: let S (1 - SE^2 / S^2) enter the utility; else S as it is.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    every: int = 8
    half_life: float = 8.0
    gradient: Literal["policy", "total"] = "policy"
    sketch_dim: int = 65536
    memory_limit_mb: int = 1024
    enabled: bool = True
    estimator: Literal["corrected", "plain"] = "corrected"
    shrink: bool = True

    def __post_init__(self) -> None:
        check_choice("synergy.estimator", self.estimator, ("corrected", "plain"))
        check_count("synergy.every", self.every, low=1)
        check_number("synergy.half_life", self.half_life, low=0, above=True)
        check_choice("synergy.gradient", self.gradient, ("policy", "total"))
        check_count("synergy.sketch_dim", self.sketch_dim, low=1)
        check_count("synergy.memory_limit_mb", self.memory_limit_mb, low=1)


@dataclass(frozen=True, slots=True)
class PairEstimate:
    """The corrected cosine of two tasks' gradients.

    Attributes:
        cosine: c_kj in [-1, 1]; None while the pair is unresolved (a norm is within its noise).
        se: its block-jackknife standard error; None while unresolved.
        freedom: degrees of freedom behind `se`.
        probes: probe steps that held both tasks.
        revision: the policy revision of the newest of them; None when there are none.
    """

    cosine: float | None
    se: float | None
    freedom: float
    probes: int
    revision: int | None

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Student-t confidence interval of the cosine, not clipped; None while unresolved."""
        if self.cosine is None or self.se is None:
            return None
        reach = _student_quantile(0.5 + level / 2, self.freedom) * self.se
        return self.cosine - reach, self.cosine + reach


@dataclass(frozen=True, slots=True)
class SynergyEstimate:
    """A task's synergy with the others.

    Attributes:
        value: S_k, the mean corrected cosine with the K - 1 other tasks, unresolved pairs
            counting as 0; None when all of them are unresolved. 0 for a single task.
        se: its standard error; None when `value` is None.
        shrunk: what enters the utility, S max(0, 1 - SE^2 / S^2); 0 when unresolved.
        shrunk_se: its standard deviation under the same normal prior, SE sqrt(1 - SE^2 / S^2).
        revision: the policy revision of its newest probe; shown as age, never a decay.
    """

    value: float | None
    se: float | None
    shrunk: float
    shrunk_se: float
    revision: int | None


class Synergy:
    """Pair-wise synergy of every task, from the Gram matrices of probe steps.

    Memory is O(K^2), whatever the length of the run: each pair keeps `BLOCKS` decayed sums, and
    none before the first probe.
    A pair's sums decay only at its own joint probe steps, so a task that is absent from a batch
    keeps what is known of it.
    """

    def __init__(self, tasks: Iterable[str], options: SynergyOptions) -> None:
        self._options = options
        self._names = list(tasks)
        count = len(self._names)
        self._probes = 0
        self._product_KKB = np.zeros((count, count, 0))
        self._square_KKB = np.zeros((count, count, 0))
        self._weight_KKB = np.zeros((count, count, 0))
        self._joint_KK = np.zeros((count, count), dtype=np.int64)
        self._revision_KK = np.full((count, count), -1, dtype=np.int64)
        self._norm_K = np.zeros(count)
        self._norm_weight_K = np.zeros(count)
        self._estimate_all()

    def add_task(self, name: str) -> None:
        """Make room for a new task; nothing is known of its pairs."""
        self._names.append(name)
        for field, value in self._arrays().items():
            axes = field.count("K")
            fill = -1 if field == "revision_KK" else 0
            widths = [(0, 1)] * axes + [(0, 0)] * (value.ndim - axes)
            setattr(self, f"_{field}", np.pad(value, widths, constant_values=fill))
        self._estimate_all()

    def follow(self, tasks: Collection[str]) -> None:
        """Forget the tasks that are not among `tasks`, and make room for those that are new."""
        for name in [name for name in self._names if name not in tasks]:
            self._drop_task(name)
        for name in tasks:
            if name not in self._names:
                self.add_task(name)

    def _drop_task(self, name: str) -> None:
        gone = self._names.index(name)
        for field, value in self._arrays().items():
            for axis in range(field.count("K")):
                value = np.delete(value, gone, axis=axis)
            setattr(self, f"_{field}", value)
        self._names.remove(name)
        self._estimate_all()

    def observe(self, revision: int, probe: GradientProbe) -> None:
        """Take in one probe step.

        Gradients are divided by the tasks' root-mean-square norms at *earlier* probes before they
        are averaged, so that steps with large gradients do not drown the others, and without
        tying a step's weight to its own noise. A task's first probe has only its own norm.

        Raises:
            PlanError: an unknown task, a wrong shape, or a product that is not finite.
        """
        gram, shares = self._checked(probe)
        index = np.array([self._names.index(name) for name in probe.tasks], dtype=np.intp)
        # A full-batch gradient is the mean of its halves by their groups.
        full = shares @ gram @ shares.T
        full = (full + full.T) / 2  # exactly symmetric, so that both tasks of a pair get one number
        half = np.diagonal(gram[0::2, 1::2])
        norm = np.diagonal(full).copy()
        if self._options.estimator == "plain":
            half = norm
        alive = norm > 0
        index, full, half, norm = index[alive], full[np.ix_(alive, alive)], half[alive], norm[alive]
        known = self._norm_weight_K[index] > 0
        before = self._norm_K[index] / np.where(known, self._norm_weight_K[index], 1.0)
        scale = np.sqrt(np.where(known, before, norm))
        decay = 2.0 ** (-1.0 / self._options.half_life)
        block = self._block()
        pairs = np.ix_(index, index)
        for sums, values in (
            (self._product_KKB, full / np.outer(scale, scale)),
            (self._square_KKB, np.repeat((half / scale**2)[:, None], len(index), axis=1)),
            (self._weight_KKB, np.ones((len(index), len(index)))),
        ):
            sums[pairs] *= decay
            sums[index[:, None], index[None, :], block] += values
        self._norm_K[index] = decay * self._norm_K[index] + norm
        self._norm_weight_K[index] = decay * self._norm_weight_K[index] + 1
        self._joint_KK[pairs] += 1
        self._revision_KK[pairs] = np.maximum(self._revision_KK[pairs], revision)
        self._probes += 1
        self._estimate_all()

    def _block(self) -> int:
        """The block of the probe that comes, which has sums from now on."""
        block = self._probes % BLOCKS
        if block == self._weight_KKB.shape[2]:
            for field, value in self._arrays().items():
                if field.endswith("B"):
                    setattr(self, f"_{field}", np.pad(value, [(0, 0), (0, 0), (0, 1)]))
        return block

    def _checked(self, probe: GradientProbe) -> tuple[FloatArray, FloatArray]:
        """The Gram as float64, and the [K', 2K'] matrix that averages halves into full batches."""
        count = len(probe.tasks)
        gram = np.asarray(probe.gram_KK, dtype=np.float64)
        if gram.shape != (2 * count, 2 * count) or len(probe.groups) != 2 * count:
            raise PlanError(
                f"gradient probe of {count} tasks has a Gram of shape {gram.shape} and "
                f"{len(probe.groups)} group counts; both must be of size {2 * count}"
            )
        unknown = sorted(set(probe.tasks) - set(self._names))
        if unknown or len(set(probe.tasks)) != count:
            raise PlanError(f"gradient probe names tasks {list(probe.tasks)}; unknown: {unknown}")
        if not np.isfinite(gram).all():
            raise PlanError("gradient probe has products that are not finite; drop that probe")
        if min(probe.groups, default=1) < 1:
            raise PlanError(
                f"gradient probe has group counts {list(probe.groups)}; every half needs a group"
            )
        shares = np.zeros((count, 2 * count))
        for k in range(count):
            first, second = probe.groups[2 * k : 2 * k + 2]
            shares[k, 2 * k] = first / (first + second)
            shares[k, 2 * k + 1] = second / (first + second)
        return gram, shares

    def _estimate_all(self) -> None:
        """Corrected cosines, their jackknife influences, and each task's mean of them."""
        count = len(self._names)
        total_KK = self._weight_KKB.sum(axis=2)
        safe_KK = np.where(total_KK > 0, total_KK, 1.0)
        part_KKB = self._weight_KKB / safe_KK[..., None]
        concentration_KK = np.square(part_KKB).sum(axis=2)
        spread_KK = np.where(concentration_KK < 1, 1 - concentration_KK, 1.0)
        square_KK = self._square_KKB.sum(axis=2)
        mean_KK = square_KK / safe_KK
        square_se_KK = np.sqrt(
            np.square(self._square_KKB - self._weight_KKB * mean_KK[..., None]).sum(axis=2)
            / spread_KK
        ) / np.where(total_KK > 0, total_KK, 1.0)
        enough_KK = np.count_nonzero(self._weight_KKB, axis=2) >= MIN_PROBES
        clear_KK = enough_KK & (mean_KK > 2 * square_se_KK)
        if not self._options.enabled:  # a resumed run may have switched it off
            clear_KK[:] = False
        self._resolved_KK = clear_KK & clear_KK.T & ~np.eye(count, dtype=bool)
        self._cosine_KK = self._ratio(self._product_KKB.sum(axis=2), square_KK)
        left_KKB = self._ratio(
            self._product_KKB.sum(axis=2, keepdims=True) - self._product_KKB,
            square_KK[..., None] - self._square_KKB,
        )
        # Weighted jackknife: deleting block b moves a weighted mean by w_b / (1 - w_b) times its
        # own deviation, so (1 - w_b) times the move is the block's share of the error. With equal
        # weights this is the textbook formula.
        influence_KKB = (1 - part_KKB) * (left_KKB - self._cosine_KK[..., None])
        influence_KKB /= np.sqrt(spread_KK)[..., None]
        influence_KKB[~self._resolved_KK] = 0.0
        self._se_KK = np.sqrt(np.square(influence_KKB).sum(axis=2))
        self._freedom_KK = 1 / np.where(concentration_KK > 0, concentration_KK, 1.0) - 1
        others = max(1, count - 1)
        # Only the point estimate is clipped: clipped replicates would feign certainty near 1.
        clipped_KK = np.where(self._resolved_KK, np.clip(self._cosine_KK, -1, 1), 0.0)
        self._mean_K = clipped_KK.sum(axis=1) / others
        # Blocks are the same probe steps for all pairs, so their influences add up, correlations
        # between pairs that share a task included.
        self._mean_se_K = np.sqrt(np.square(influence_KKB.sum(axis=1) / others).sum(axis=1))
        self._estimates = {name: self._estimate(k) for k, name in enumerate(self._names)}
        upper = np.argwhere(np.triu(~self._resolved_KK, k=1)).tolist()
        self._unresolved = [(self._names[k], self._names[j]) for k, j in upper]

    @staticmethod
    def _ratio(product: FloatArray, square: FloatArray) -> FloatArray:
        tiny = np.finfo(np.float64).tiny
        norms = np.sqrt(np.maximum(square, tiny)) * np.sqrt(
            np.maximum(np.swapaxes(square, 0, 1), tiny)
        )
        good = (square > 0) & (np.swapaxes(square, 0, 1) > 0)
        return np.where(good, product / np.where(good, norms, 1.0), 0.0)

    def pair(self, first: str, second: str) -> PairEstimate:
        """The corrected cosine of two different tasks."""
        k, j = self._names.index(first), self._names.index(second)
        resolved = bool(self._resolved_KK[k, j])
        revision = int(self._revision_KK[k, j])
        return PairEstimate(
            cosine=float(np.clip(self._cosine_KK[k, j], -1, 1)) if resolved else None,
            se=float(self._se_KK[k, j]) if resolved else None,
            freedom=float(self._freedom_KK[k, j]),
            probes=int(self._joint_KK[k, j]),
            revision=None if revision < 0 else revision,
        )

    def cosines(self, task: str) -> dict[str, float]:
        """The corrected cosines of one task with those others whose cosine is known."""
        k = self._names.index(task)
        clipped_K = np.clip(self._cosine_KK[k], -1, 1).tolist()
        known = np.flatnonzero(self._resolved_KK[k]).tolist()
        return {self._names[j]: clipped_K[j] for j in known}

    def unresolved(self) -> Sequence[tuple[str, str]]:
        """Pairs of tasks whose cosine is not known."""
        return self._unresolved

    def estimate(self, task: str) -> SynergyEstimate:
        """S_k with its standard error, and the shrunk value that enters the utility."""
        return self._estimates[task]

    def _estimate(self, k: int) -> SynergyEstimate:
        if len(self._names) == 1:
            return SynergyEstimate(0.0, 0.0, 0.0, 0.0, None)
        newest = int(np.max(np.delete(self._revision_KK[k], k)))
        revision = None if newest < 0 or not self._options.enabled else newest
        if not self._resolved_KK[k].any():
            return SynergyEstimate(None, None, 0.0, 0.0, revision)
        value, se = float(self._mean_K[k]), float(self._mean_se_K[k])
        keep = max(0.0, 1 - (se / value) ** 2) if value else 0.0
        if not self._options.shrink:
            keep = 1.0
        return SynergyEstimate(value, se, value * keep, se * math.sqrt(keep), revision)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "product_KKB": self._product_KKB,
            "square_KKB": self._square_KKB,
            "weight_KKB": self._weight_KKB,
            "joint_KK": self._joint_KK,
            "revision_KK": self._revision_KK,
            "norm_K": self._norm_K,
            "norm_weight_K": self._norm_weight_K,
        }

    def state_dict(self) -> dict[str, Any]:
        """Names, the probe counter and numpy arrays (copies)."""
        arrays = {field: value.copy() for field, value in self._arrays().items()}
        return {"tasks": list(self._names), "probes": self._probes, **self._measured, **arrays}

    @property
    def _measured(self) -> dict[str, str]:
        """What the sums are of."""
        return {"estimator": self._options.estimator, "gradient": self._options.gradient}

    def is_of_another_kind(self, state: Mapping[str, Any]) -> bool:
        """Whether a saved state measured something else (`estimator`, `gradient`) than this one."""
        return any(state.get(name) != value for name, value in self._measured.items())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`. Tasks may come in another order, but must be the same.

        Sums of another kind (`is_of_another_kind`) can't be continued: then nothing is known yet.

        Raises:
            StateError: tasks, entries or shapes differ.
        """
        arrays = self._arrays()
        check_keys("synergy", state, ["tasks", "probes", *self._measured, *arrays])
        if sorted(state["tasks"]) != sorted(self._names):
            raise StateError(f"state of synergy is of tasks {state['tasks']}, not {self._names}")
        loaded: dict[str, NDArray[Any]] = {}
        for field, mine in arrays.items():
            value = np.asarray(state[field], dtype=mine.dtype)
            expected = mine.shape
            if field.endswith("B"):
                expected = (*expected[:2], min(BLOCKS, int(state["probes"])))
            if value.shape != expected:
                raise StateError(f"synergy.{field} has shape {value.shape}, not {expected}")
            loaded[field] = value.copy()
        if self.is_of_another_kind(state):
            return
        for field, value in loaded.items():
            setattr(self, f"_{field}", value)
        # The saved order is kept: sums over tasks then round as they did before.
        self._names = list(state["tasks"])
        self._probes = int(state["probes"])
        self._estimate_all()


def _student_quantile(probability: float, freedom: float) -> float:
    """Student-t quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).

    Within 1% of the exact value for three or more degrees of freedom at the 97.5% point.
    """
    z = NormalDist().inv_cdf(probability)
    f = max(freedom, 1.0)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / f + second / f**2 + third / f**3
