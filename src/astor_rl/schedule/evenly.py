"""Even draws: every prompt that is left has the same chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def draw_evenly(
    left: IntArray, unseen: int, count: int, rng: np.random.Generator
) -> tuple[IntArray, int, float]:
    """Choose `count` different prompts, or all if there are fewer, at random.

    Args:
        left: rows that may be drawn. [N]
        unseen: further prompts, all alike, that were never drawn.
        count: how many.
        rng: the coordinator's generator.

    Returns:
        The chosen rows, how many of the unseen are chosen besides, and the probability with which
        each of all of them was.
    """
    pool = len(left) + unseen
    size = min(count, pool)
    if not size:
        return left[:0], 0, 1.0
    new = int(rng.hypergeometric(unseen, len(left), size))
    chosen = left[rng.choice(len(left), size=size - new, replace=False)]
    return chosen, new, size / pool
