"""Learning-rate factors over steps."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def lr_factor(step: int, *, kind: Schedule, lr_warmup_steps: int, total: int) -> float:
    """What the learning rate is multiplied by at a step, in (0, 1].

    A linear ramp over `lr_warmup_steps`, then constant, or down to 0 at `total` linearly or along
    half a cosine, as the Hugging Face schedules of the same names.

    Args:
        step: 0-based optimiser step.
        total: optimiser steps of the whole run; the run is fixed before it starts.
    """
    if step < lr_warmup_steps:
        return (step + 1) / (lr_warmup_steps + 1)
    if kind == "constant":
        return 1.0
    left = max(0.0, (total - step) / max(1, total - lr_warmup_steps))
    return left if kind == "linear" else 0.5 * (1 - math.cos(math.pi * left))
