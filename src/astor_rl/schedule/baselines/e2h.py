"""E2H Reasoner: from easy to hard, fading (Parashar et al. 2025, arXiv 2506.06632, section 3).

With K levels, t of T steps, levels i = 0 .. K-1 from easy to hard and p_min = 2 / (K (K + 1)):

    Gaussian  mu = (t / T)^e (K - 1);  q_i prop. to exp(-(i - mu)^2 / (2 sigma^2))
              share_i = p_min + (1 - K p_min) q_i
    cosine    a = (1 + cos(pi t / T)) / 2
              share_i prop. to max(p_min, a (K - i) / (K (K + 1) / 2) + (1 - a) (i + 1) / (same))

The defaults e = 0.5 and sigma = 0.5 are those of the published code. Its levels are difficulties of
one dataset; here they are the tasks, ordered as `ladder` does.
"""

from __future__ import annotations

import math

import numpy as np

from astor_rl.schedule.baselines.arm import FloatArray
from astor_rl.schedule.baselines.ladder import Ladder


class E2H(Ladder):
    """E2H-G, or E2H-C with `baseline.e2h_schedule = "cosine"`."""

    def rungs(self, progress: float) -> FloatArray:
        """See the module's text."""
        count = len(self._tasks)
        level = np.arange(count, dtype=np.float64)
        total = count * (count + 1) / 2
        least = 1 / total
        if self._options.e2h_schedule == "cosine":
            early = (1 + math.cos(math.pi * progress)) / 2
            shares = np.maximum(
                least, (early * (count - level) + (1 - early) * (level + 1)) / total
            )
            return np.asarray(shares / shares.sum(), dtype=np.float64)
        centre = progress**self._options.e2h_exponent * (count - 1)
        bell = np.exp(-np.square(level - centre) / (2 * self._options.e2h_sigma**2))
        return np.asarray(least + (1 - count * least) * bell / bell.sum(), dtype=np.float64)
