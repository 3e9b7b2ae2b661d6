"""Intervals over a few seeds: Student's t, for means, paired ratios, and several of them at once.

Seeds are few, so quantiles are t's: a percentile bootstrap undercovers at small n, and the normal
quantile covers 81% at three seeds where it promises 95%.

Relative gains are paired log-ratios: of L_s = ln(ours_s / theirs_s) over seeds s, the mean and its
t-interval, exponentiated. Fieller's interval for the ratio of means was the other candidate. Where
scores vary by some percent over seeds the two agree; the log-ratio pairs seeds as a difference
does, is always bounded (Fieller's isn't once the denominator is noisy), and says the same whichever
of the two is called the reference. What it estimates is the geometric mean of the seeds' ratios.

Against the best of several arms the two ends are different questions (`against_best`). Whoever is
above the best is above each: the least of the lower ends needs no allowance for their number (an
intersection-union test). The least of the upper ends is chosen among m chances to be too low, so
those are made at Sidak's 0.95^(1/m). That is exact for independent comparisons; paired ones share
the reference and are correlated, which makes it conservative: by 2% of the width at a correlation
of 0.5, by 20% at 0.9 (ten seeds, eight arms). Simulating the maximum of |t| at the *estimated*
correlations would be tighter and was tried: at three seeds and eight arms it covers 91 to 92%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

LEVEL = 0.95
FEWEST = 3
"""Seeds below which no arm is called ahead: two that happen to agree make an interval of no width,
narrower than the noise of judging."""

_LARGEST_LOG = 700.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate over seeds.

    Attributes:
        mean: the estimate.
        low, high: the ends of its 95% interval; None with fewer than two seeds: one seed tells
            nothing of the others.
        seeds: how many it is of.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON-ready."""
        return asdict(self)


def verdict(low: float | None, high: float | None, seeds: int) -> str:
    """What an interval of a gain over so many seeds says: `ahead`, `behind`, or that it can't."""
    if seeds < FEWEST:
        return "too few seeds to tell"
    if low is None or high is None:
        return "not told apart"
    return "ahead" if low > 0 else "behind" if high < 0 else "not told apart"


def t_within(t: float, df: int) -> float:
    """P(|T| <= t) of Student's t with whole degrees of freedom (Abramowitz and Stegun 26.7.3-4).

    Args:
        t: >= 0.
        df: >= 1.
    """
    angle = math.atan2(t, math.sqrt(df))
    sin, cos = math.sin(angle), math.cos(angle)
    term, total = (1.0, 1.0) if df % 2 == 0 else (cos, cos)
    for k in range(2 if df % 2 == 0 else 3, df, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    if df % 2 == 0:
        return sin * total
    return 2 / math.pi * (angle + (sin * total if df > 1 else 0.0))


def t_quantile(inside: float, df: int) -> float:
    """The t with P(|T| <= t) = `inside`, in (0, 1); df >= 1."""
    high = 1.0
    while t_within(high, df) < inside:
        high *= 2
    low = 0.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_within(middle, df) < inside else (low, middle)
    return high


def mean_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean of one value a seed; at least one."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, None, None, n)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(level, n - 1) * math.sqrt(variance / n)
    return Interval(mean, mean - half, mean + half, n)


def gain_interval(
    ours: Sequence[float], theirs: Sequence[float], *, level: float = LEVEL
) -> Interval | None:
    """By how many percent our scores are above theirs, paired by seed.

    Returns:
        None when a score is 0 or less, or there is none: no ratio is defined.
    """
    if not ours or min(*ours, *theirs) <= 0:
        return None
    logs = mean_interval(
        [math.log(our / their) for our, their in zip(ours, theirs, strict=True)], level=level
    )
    low, high = (None if value is None else _percent(value) for value in (logs.low, logs.high))
    return Interval(_percent(logs.mean), low, high, logs.seeds)


def _percent(log_ratio: float) -> float:
    """Where scores differ by orders of magnitude, an end may be past all floats."""
    return 100 * math.expm1(min(log_ratio, _LARGEST_LOG))


def sidak(comparisons: int, *, level: float = LEVEL) -> float:
    """The level of each of several intervals that hold together at `level`."""
    return float(level ** (1 / comparisons))


def against_best(alone: Sequence[Interval], together: Sequence[Interval]) -> Interval:
    """Our gain over the best of several arms, from an interval over each.

    The true gain over the truly best arm is the least of the true gains. (Taking the arm that
    happened to score best and its own interval would not cover: it was chosen by the noise.)

    Args:
        alone: at least one, each at 95% on its own: they make the lower end.
        together: of the same arms, each made at `sidak(len(together))`: they make the upper end.
    """
    lows = [gain.low for gain in alone if gain.low is not None]
    highs = [gain.high for gain in together if gain.high is not None]
    bounded = len(lows) == len(highs) == len(alone)
    return Interval(
        min(gain.mean for gain in alone),
        min(lows) if bounded else None,
        min(highs) if bounded else None,
        min(gain.seeds for gain in alone),
    )


def kendalls_w(ranks: Sequence[Sequence[float]]) -> float | None:
    """Kendall's W: 1 when every seed ranks the arms alike, about 0 at random. Ties are corrected.

    Args:
        ranks: by seed, each arm's rank (ties share their mean rank).

    Returns:
        None with fewer than two seeds or arms, or when all are tied.
    """
    m, n = len(ranks), len(ranks[0]) if ranks else 0
    if m < 2 or n < 2:
        return None
    sums = [math.fsum(seed[arm] for seed in ranks) for arm in range(n)]
    centre = math.fsum(sums) / n
    spread = math.fsum((total - centre) ** 2 for total in sums)
    ties = sum(
        seed.count(rank) ** 3 - seed.count(rank) for seed in map(list, ranks) for rank in set(seed)
    )
    most = m * m * (n**3 - n) - m * ties
    return 12 * spread / most if most else None


def ranks(scores: list[float]) -> list[float]:
    """1 for the highest score; equal ones share their mean rank."""
    return [
        1 + sum(other > score for other in scores) + (scores.count(score) - 1) / 2
        for score in scores
    ]
