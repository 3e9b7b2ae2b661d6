"""Module 1, second half: which prompts of a task to train on (docs/method.md, Module 1).

    u = V + eta max(0, |progress| - SE(progress)), at least u_min
    V = (n0 v0 + sum w v) / (n0 + sum w)

v is a visit's outcome variance in units of 0.25, or whether it had any (`value`), w its weight
(halved every `evidence_half_life` revisions), v0 the mean v of recent *first* visits: what an
unseen prompt can be expected to have. Progress is a fast minus a slow average of the mean outcome.

Prompts are drawn without replacement by Gumbel top-k on log(u) / tau (Kool et al. 2019,
arXiv 1903.06059), whose winners are the first arrivals of a race (`race`). All unseen prompts have
the same utility, so they need no rows: the largest of M Gumbel variables are drawn as order
statistics. Memory and time grow with the prompts that were seen, never with the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_keys, check_prompt_key
from astor_rl.errors import PlanError, StateError
from astor_rl.schedule.evenly import draw_evenly
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.race import first_arrivals
from astor_rl.schedule.unseen import Unseen
from astor_rl.utility.potential import RANGE_VARIANCE, group_variance

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_COLUMNS = {
    "index": np.int64,  # place in the task's keys
    "flights": np.int64,  # plans in flight that hold it
    "epoch": np.int64,  # the last one it was drawn in, whatever the rule
    "visits": np.int64,  # groups with a valid rollout
    "weight": np.float64,  # sum of w, as of the book's base revision
    "variance": np.float64,  # sum of w v, likewise (`PromptOptions.value` says what v is)
    "bonus": np.float64,  # eta max(0, |progress| - SE)
    "fast": np.float64,  # averages of the mean outcome ...
    "slow": np.float64,
    "fast_var": np.float64,  # ... and their sampling (co)variances
    "slow_var": np.float64,
    "cross_var": np.float64,
}

_REBASE_HALF_LIVES = 30
"""Evidence weights are kept relative to a base revision; it moves this often (2^30 is safe)."""
_SMALLEST_WEIGHT = 1e-200


Rule = Literal["utility", "chance", "epochs"]
"""Draw by utility; give every prompt the same chance; or draw each once before any twice."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Prompts drawn from one task, in the order of the draw.

    Attributes:
        rows: the book's rows, for `observe` and `release`.
        keys: the prompts.
        propensities: conditional inclusion probabilities, (0, 1].
    """

    rows: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    propensities: tuple[float, ...] = ()


class PromptBook:
    """What is known of one task's prompts, and the draw among them.

    A prompt gets a row when it is first drawn. Prompts of plans in flight are not drawn again
    unless repeats are allowed.
    """

    def __init__(self, task: str, keys: Sequence[str], options: PromptOptions) -> None:
        self._task = task
        self._keys = keys
        self._options = options
        self._columns = {name: np.zeros(0, dtype=kind) for name, kind in _COLUMNS.items()}
        self._rows = 0
        self._busy = 0
        self._epoch = 0
        self._unseen = Unseen(len(keys))
        self._base_revision = 0
        self._first_weight = 0.0
        self._first_variance = 0.0

    @property
    def size(self) -> int:
        """Prompts the task has."""
        return self._unseen.size

    @property
    def seen(self) -> int:
        """Prompts that were ever drawn."""
        return self._rows

    @property
    def free(self) -> int:
        """Prompts that no plan in flight holds."""
        return self._unseen.size - self._busy

    def draw(
        self,
        count: int,
        *,
        revision: int,
        rng: np.random.Generator,
        rule: Rule = "utility",
        allow_repeats: bool = False,
    ) -> Draw:
        """Draw prompts and mark them as in flight.

        With repeats, distinct free prompts come first; what is still missing is drawn from all
        prompts, in rounds that are each without replacement.

        Args:
            count: how many.
            revision: the policy revision, to age evidence by.
            rng: the coordinator's generator.
            rule: how to choose.
            allow_repeats: draw a prompt twice rather than fail.

        Raises:
            PlanError: fewer than `count` prompts are free (none exist, with repeats).
        """
        if count > (math.inf if allow_repeats and self.size else self.free):
            raise PlanError(
                f"task {self._task}: {count} prompts are wanted and {self.free} of {self.size} "
                "are free; lower the batch, finish plans in flight, or set schedule.allow_repeats"
            )
        rows: list[int] = []
        chances: list[float] = []
        only_free = True
        while len(rows) < count:
            pool = self.free if only_free else self.size
            size = min(count - len(rows), pool)
            if size:
                if rule == "epochs":
                    some, chance = self._draw_epoch(size, rng, only_free)
                else:
                    by_utility = rule == "utility"
                    some, chance = self._draw_distinct(size, revision, rng, by_utility, only_free)
                    self._column("epoch")[some] = self._epoch
                self._hold(some)
                rows.extend(some.tolist())
                chances.extend(chance.tolist())
            only_free = False
        index = self._columns["index"]
        keys = tuple(self._key(int(index[row])) for row in rows)
        return Draw(tuple(rows), keys, tuple(chances))

    def _key(self, place: int) -> str:
        """A prompt's key. Raises `ConfigError` where it can't be saved."""
        key = self._keys[place]
        check_prompt_key(self._task, key)
        return key

    def free_indices(self) -> IntArray:
        """Places in the task's keys of the prompts that no plan in flight holds. [free]"""
        is_free = np.ones(self.size, dtype=bool)
        is_free[self._column("index")[self._column("flights") > 0]] = False
        return np.flatnonzero(is_free)

    def take(self, indices: IntArray) -> Draw:
        """Mark chosen prompts, by place and all different, as in flight.

        The propensity of a choice that others made is unknown here and given as 1.
        """
        known = {int(index): row for row, index in enumerate(self._column("index"))}
        new = np.array([i for i in indices.tolist() if i not in known], dtype=np.int64)
        if len(new):
            known |= zip(new.tolist(), self._append(new).tolist(), strict=True)
            self._unseen = Unseen.without(self.size, self._column("index").tolist())
        rows = np.array([known[index] for index in indices.tolist()], dtype=np.int64)
        self._column("epoch")[rows] = self._epoch
        self._hold(rows)
        keys = tuple(self._key(index) for index in indices.tolist())
        return Draw(tuple(rows.tolist()), keys, (1.0,) * len(keys))

    def index(self, row: int) -> int:
        """The place of a row's prompt in the task's keys."""
        return int(self._columns["index"][row])

    def _draw_distinct(
        self, count: int, revision: int, rng: np.random.Generator, by_utility: bool, only_free: bool
    ) -> tuple[IntArray, FloatArray]:
        """`count` different prompts by Gumbel top-k: their rows and propensities."""
        phi_unseen = 0.0
        utility = np.ones(self._rows)
        if by_utility:
            utility, expected = self._utilities(revision)
            phi_unseen = math.log(expected) / self._options.tau
        spare = self._rows - self._busy if only_free else self._rows
        if only_free and self._busy:
            utility *= self._column("flights") == 0
        score_seen, candidates, phi_seen = self._best_seen(utility, min(spare, count + 1), rng)

        share = self._options.explore_share if by_utility else 1.0
        quota = math.floor(share * count + rng.random())
        cap = min(self._unseen.left, count, max(quota, count - spare))
        # One more than can be taken: the first that is left out sets the threshold.
        score_unseen = phi_unseen + self._unseen_gumbels(min(self._unseen.left, cap + 1), rng)
        beyond = float(score_unseen[cap]) if len(score_unseen) > cap else -math.inf

        score = np.concatenate([score_seen, score_unseen[:cap]])
        ranking = np.argsort(-score, kind="stable")
        threshold = float(score[ranking[count]]) if len(ranking) > count else -math.inf
        chosen = ranking[:count]
        is_new = chosen >= len(score_seen)
        rows = np.empty(count, dtype=np.int64)
        rows[~is_new] = candidates[chosen[~is_new]]
        rows[is_new] = self._append(self._unseen.draw(int(is_new.sum()), rng))
        phi = np.full(count, phi_unseen)
        phi[~is_new] = phi_seen[chosen[~is_new]]
        bar = np.where(is_new, max(threshold, beyond), threshold)
        return rows, -np.expm1(-np.exp(phi - bar))

    def _draw_epoch(
        self, count: int, rng: np.random.Generator, only_free: bool
    ) -> tuple[IntArray, FloatArray]:
        """`count` different prompts: of what the epoch has left, then of the next epoch."""
        may = np.ones(self._rows, dtype=np.bool_)
        if only_free:
            may = self._column("flights") == 0
        rest = np.flatnonzero(may & (self._column("epoch") < self._epoch))
        seen, new, chance = draw_evenly(rest, self._unseen.left, count, rng)
        may[seen] = False
        rows = np.concatenate([seen, self._append(self._unseen.draw(new, rng))])
        self._column("epoch")[rows] = self._epoch
        chances = np.full(len(rows), chance)
        if missing := count - len(rows):
            self._epoch += 1
            more, _, chance = draw_evenly(np.flatnonzero(may), 0, missing, rng)
            self._column("epoch")[more] = self._epoch
            rows = np.concatenate([rows, more])
            chances = np.concatenate([chances, np.full(len(more), chance)])
        return rows, chances

    def _hold(self, rows: IntArray) -> None:
        """A plan holds these prompts, all different."""
        flights = self._column("flights")
        self._busy += int((flights[rows] == 0).sum())
        flights[rows] += 1

    def _best_seen(
        self, utility: FloatArray, count: int, rng: np.random.Generator
    ) -> tuple[FloatArray, IntArray, FloatArray]:
        """The `count` rows of the highest scores phi + Gumbel: (scores, rows, phi), descending.

        Args:
            utility: of every row, 0 for those that can't be drawn.
            count: at most the number of rows that can be drawn.
            rng: the coordinator's generator.
        """
        tau = self._options.tau
        if 0 < 2 * count < len(utility):
            best = float(utility.max())
            weights = (utility / best) ** (1 / tau)
            # A low temperature rounds the weights of all but a few to nothing: then by logarithms.
            if np.count_nonzero(weights > _SMALLEST_WEIGHT) >= count:
                times, rows = first_arrivals(weights, count, rng)
                phi = np.log(utility[rows]) / tau
                return math.log(best) / tau - np.log(times), rows, phi
        rows = np.flatnonzero(utility)
        phi = np.log(utility[rows]) / tau
        score, order = _descending(phi - np.log(rng.standard_exponential(len(rows))), count)
        return score, rows[order], phi[order]

    def _utilities(self, revision: int) -> tuple[FloatArray, float]:
        """u of every row, and of every unseen prompt."""
        self._rebase(revision)
        options = self._options
        expected = self.expected_variance(revision)
        # Ageing all evidence would divide every row by the scale; the prior is multiplied instead.
        prior = options.prior_weight * self._scale(revision)
        utility = self._column("variance") + prior * expected
        utility /= self._column("weight") + prior
        utility += self._column("bonus")
        np.maximum(utility, options.u_min, out=utility)
        return utility, max(expected, options.u_min)

    def _unseen_gumbels(self, count: int, rng: np.random.Generator) -> FloatArray:
        """The `count` largest of M standard Gumbel variables, M the unseen prompts, descending.

        -log of the smallest of M exponentials, whose ascending order statistics have independent
        gaps E_i / (M - i) (Renyi 1953).
        """
        gaps = rng.standard_exponential(count) / (self._unseen.left - np.arange(count))
        return np.asarray(-np.log(np.cumsum(gaps)), dtype=np.float64)

    def observe(self, row: int, revision: int, outcomes: Sequence[float]) -> None:
        """Take in the valid outcomes of a prompt's group; none at all is no visit."""
        if not outcomes:
            return
        self._rebase(revision)
        columns = self._columns
        size = len(outcomes)
        mean = math.fsum(outcomes) / size
        variance = group_variance(outcomes)
        if variance is not None:
            weight = self._scale(revision)
            value = self._value(variance)
            if columns["weight"][row] == 0:
                self._first_weight += weight
                self._first_variance += weight * value
            columns["weight"][row] += weight
            columns["variance"][row] += weight * value
        # One pseudo-observation of the widest variance: equal rewards are not certainty.
        noise = ((variance or 0.0) * (size - 1) + RANGE_VARIANCE) / size / size
        self._track_progress(row, mean, noise)

    def _value(self, variance: float) -> float:
        """v of a group with this outcome variance, which is exactly 0 for equal outcomes."""
        if self._options.value == "nonzero":
            return float(variance > 0)
        return variance / RANGE_VARIANCE

    def _track_progress(self, row: int, mean: float, noise: float) -> None:
        """Move both averages, and the exact sampling variance of their difference."""
        columns, options = self._columns, self._options
        first = columns["visits"][row] == 0
        fast = 1.0 if first else 1 - 2.0 ** (-1 / options.fast_half_life)
        slow = 1.0 if first else 1 - 2.0 ** (-1 / options.slow_half_life)
        columns["visits"][row] += 1
        for name, rate, other in (
            ("fast_var", fast, fast),
            ("slow_var", slow, slow),
            ("cross_var", fast, slow),
        ):
            old = columns[name][row]
            columns[name][row] = (1 - rate) * (1 - other) * old + rate * other * noise
        columns["fast"][row] += fast * (mean - columns["fast"][row])
        columns["slow"][row] += slow * (mean - columns["slow"][row])
        progress, se = self.progress(row)
        columns["bonus"][row] = options.eta * max(0.0, abs(progress) - se)

    def progress(self, row: int) -> tuple[float, float]:
        """A seen prompt's recent change of the mean outcome, in [-1, 1], and its error."""
        columns = self._columns
        spread = columns["fast_var"][row] + columns["slow_var"][row] - 2 * columns["cross_var"][row]
        change = columns["fast"][row] - columns["slow"][row]
        return float(change), math.sqrt(max(0.0, float(spread)))

    def expected_variance(self, revision: int) -> float:
        """v0: the mean v of recent first visits.

        The prior value counts as one visit.
        """
        # By the inverse of `_scale`: of a task that is never drawn that would grow without end.
        age = (revision - self._base_revision) / self._options.evidence_half_life
        weight = math.exp2(-age)
        return (self._options.prior_variance + weight * self._first_variance) / (
            1 + weight * self._first_weight
        )

    def _scale(self, revision: int) -> float:
        """The weight of evidence from `revision` relative to the base revision's."""
        return math.exp2((revision - self._base_revision) / self._options.evidence_half_life)

    def release(self, row: int, *, used: bool = True) -> None:
        """A plan in flight lets go of a prompt, which the epoch still has if it wasn't used."""
        flights = self._columns["flights"]
        flights[row] -= 1
        self._busy -= int(flights[row] == 0)
        if not used:
            self._columns["epoch"][row] = self._epoch - 1

    def _column(self, name: str) -> NDArray[Any]:
        """The rows in use of a column, as a view."""
        return self._columns[name][: self._rows]

    def _append(self, indices: IntArray) -> IntArray:
        """New rows for prompts that were never drawn."""
        rows = np.arange(self._rows, self._rows + len(indices), dtype=np.int64)
        needed, capacity = self._rows + len(indices), len(self._columns["index"])
        if needed > capacity:
            extra = max(needed, 2 * capacity, 16) - capacity
            for name, column in self._columns.items():
                self._columns[name] = np.concatenate([column, np.zeros(extra, dtype=column.dtype)])
        self._rows = needed
        self._columns["index"][rows] = indices
        return rows

    def _rebase(self, revision: int) -> None:
        """Express evidence weights relative to a newer revision before they overflow."""
        half_life = self._options.evidence_half_life
        if revision - self._base_revision <= _REBASE_HALF_LIVES * half_life:
            return
        factor = 2.0 ** (-(revision - self._base_revision) / half_life)
        self._column("weight")[:] *= factor
        self._column("variance")[:] *= factor
        self._first_weight *= factor
        self._first_variance *= factor
        self._base_revision = revision

    def state_dict(self) -> dict[str, Any]:
        """Everything about seen prompts: numpy arrays of their number, and their keys."""
        keys = [self._keys[int(i)].encode() for i in self._column("index")]
        return {
            "size": self.size,
            "keys": np.array(keys, dtype=np.bytes_),
            "columns": {name: self._column(name).copy() for name in _COLUMNS},
            "unseen": self._unseen.state_dict(),
            "epoch": self._epoch,
            "base_revision": self._base_revision,
            "first_weight": self._first_weight,
            "first_variance": self._first_variance,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], *, on_change: Literal["error", "adapt"] = "error"
    ) -> IntArray:
        """Restore `state_dict()`.

        The data counts as unchanged when it has as many prompts as before and every remembered
        prompt is where it was. If it changed, `adapt` looks the remembered prompts up in one pass
        over the new keys and forgets those that are gone.

        Returns:
            For each saved row its row now, -1 when its prompt is gone. [seen]

        Raises:
            StateError: entries or shapes are wrong, or the prompts changed and `on_change` is
                `error`.
        """
        what = f"prompts of {self._task}"
        plain = ["epoch", "base_revision", "first_weight", "first_variance"]
        if "epoch" not in state:  # from before there were epochs: all that was drawn was in one
            first = {"epoch": np.zeros(len(state["keys"]))}
            state = {**state, "epoch": 0, "columns": {**state["columns"], **first}}
        check_keys(what, state, ["size", "keys", "columns", "unseen", *plain])
        check_keys(what, state["columns"], _COLUMNS)
        keys = [key.decode() for key in np.asarray(state["keys"]).tolist()]
        columns: dict[str, NDArray[Any]] = {
            name: np.array(state["columns"][name], dtype=kind) for name, kind in _COLUMNS.items()
        }
        for name, column in columns.items():
            if column.shape != (len(keys),):
                raise StateError(f"{what}: column {name} has shape {column.shape}, not {len(keys)}")
        unseen = Unseen(len(self._keys))
        rows = np.arange(len(keys), dtype=np.int64)
        change = self._difference(int(state["size"]), keys, columns["index"])
        if not change:
            unseen.load_state_dict(state["unseen"])
        elif on_change == "error":
            raise StateError(f"{what} changed since the state was saved: {change}")
        else:
            rows = self._find(keys, columns)
            unseen = Unseen.without(len(self._keys), columns["index"].tolist())
        self._columns, self._rows = columns, len(columns["index"])
        self._busy = int((columns["flights"] > 0).sum())
        self._unseen = unseen
        self._epoch = int(state["epoch"])
        self._base_revision = int(state["base_revision"])
        self._first_weight = float(state["first_weight"])
        self._first_variance = float(state["first_variance"])
        return rows

    def _difference(self, size: int, keys: Sequence[str], index: IntArray) -> str:
        """What tells the task's prompts from the saved ones; empty when nothing does."""
        if size != len(self._keys):
            return f"there were {size}, now there are {len(self._keys)}"
        for key, place in zip(keys, index.tolist(), strict=True):
            if self._keys[place] != key:
                return f"prompt {place} was {key}, now it is {self._keys[place]}"
        return ""

    def _find(self, keys: Sequence[str], columns: dict[str, NDArray[Any]]) -> IntArray:
        """Keep the rows whose prompts are among the task's keys; see `load_state_dict`."""
        wanted = {key: row for row, key in enumerate(keys)}
        place = np.full(len(keys), -1, dtype=np.int64)
        for index, key in enumerate(self._keys):
            if (row := wanted.get(key)) is not None:
                place[row] = index
        kept = place >= 0
        columns["index"] = place
        for name in columns:
            columns[name] = columns[name][kept]
        return np.where(kept, np.cumsum(kept) - 1, -1)


def _descending(scores: FloatArray, count: int) -> tuple[FloatArray, IntArray]:
    """The `count` largest scores (all, if fewer), descending, and where they were."""
    if len(scores) > count:
        top = np.argpartition(-scores, count - 1)[:count]
    else:
        top = np.arange(len(scores))
    top = top[np.argsort(-scores[top], kind="stable")]
    return scores[top], top
