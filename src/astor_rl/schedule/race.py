"""The winners of a race of exponential clocks, without starting every clock.

Gumbel top-k draws a variable for each candidate. The same scores come from a Poisson process of
rate W = sum w whose arrivals belong to candidate i with probability w_i / W: a candidate's first
arrival is exponential of rate w_i, independent of the others'. So only as many arrivals are drawn
as there are winners, and the candidates cost one cumulative sum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SPARE = 8


def first_arrivals(
    weights: FloatArray, count: int, rng: np.random.Generator
) -> tuple[FloatArray, IntArray]:
    """The `count` candidates whose clocks ring first.

    Exact for any weights: minus the logarithm of the times are the largest of independent
    variables log w_i + Gumbel, in descending order.

    Args:
        weights: rates of the clocks, >= 0; changed in place. [n]
        count: winners wanted, at most the number of positive weights.
        rng: the caller's generator.

    Returns:
        (times, places), ascending in time. [count] each
    """
    found: dict[int, float] = {}
    now = 0.0
    while len(found) < count:
        edges = weights.cumsum()
        total = edges[-1]
        missing = count - len(found)
        batch = missing + missing // 4 + _SPARE
        clock = rng.standard_exponential(batch).cumsum() / total + now
        arrivals = edges.searchsorted(rng.random(batch) * total, side="right")
        for place, time in zip(arrivals.tolist(), clock.tolist(), strict=True):
            # Rounding can put an arrival beyond the last edge, where nobody is: it is nobody's.
            if place < len(weights) and place not in found:
                found[place] = time
                if len(found) == count:
                    break
        # Memoryless: those who have won leave, and the race goes on from here without them.
        weights[list(found)] = 0.0
        now = float(clock[-1])
    return np.array(list(found.values())), np.array(list(found), dtype=np.int64)
