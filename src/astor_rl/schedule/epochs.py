"""Even draws by epochs: every prompt of a task once before any of them twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def next_of_epoch(
    draws: IntArray, unseen: int, count: int, rng: np.random.Generator
) -> tuple[IntArray, int, FloatArray]:
    """Choose those that were drawn least often, at random among equals.

    Where an epoch ends inside the draw, what it has left is taken whole and the rest comes from
    the next one, so no prompt comes twice in one draw.

    Args:
        draws: how often each candidate was drawn so far, >= 1. [N]
        unseen: further candidates, all alike, that were never drawn.
        count: how many, at most N + `unseen`.
        rng: the coordinator's generator.

    Returns:
        The places of the chosen in `draws`, how many of the unseen are chosen besides, and the
        conditional inclusion probabilities of all of them in that order. [count]
    """
    new = min(count, unseen)
    chosen, chances = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    missing, done = count - new, 0
    while missing:
        done = int(draws[draws > done].min())
        pool = np.flatnonzero(draws == done)
        size = min(missing, len(pool))
        chosen.append(pool[rng.choice(len(pool), size=size, replace=False)])
        chances.append(np.full(size, size / len(pool)))
        missing -= size
    chances.append(np.full(new, new / unseen if unseen else 1.0))
    return np.concatenate(chosen), new, np.concatenate(chances)
