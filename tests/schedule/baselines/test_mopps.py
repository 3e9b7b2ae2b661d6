"""MoPPS' posteriors by hand, and the choice they lead to."""

from __future__ import annotations

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def test_posterior_after_two_visits(bench):
    """decay 0.5, prior (1, 1). 3 of 4 right: alpha = 0.5 + 0.5 + 3 = 4, beta = 1 + 1 = 2.

    Then 0 of 4: alpha = 2 + 0.5 + 0 = 2.5, beta = 1 + 0.5 + 4 = 5.5; mean 2.5 / 8 = 0.3125.
    """
    each = bench("mopps")
    each.feed("a", 1, 1, 1, 0, index=6)
    each.shares()
    assert each.arm.terms("a") == pytest.approx({"known_prompts": 1, "expected_outcome": 4 / 6})
    each.feed("a", 0, 0, 0, 0, index=6)
    assert each.shares() == [0.5, 0.5]
    assert each.arm.terms("a") == pytest.approx({"known_prompts": 1, "expected_outcome": 0.3125})
    assert each.arm.terms("b") == {"known_prompts": 0.0}


def test_prompts_near_the_target_are_taken(bench):
    """Without decay, 400 of 800 right pins prompt 3 to 0.5; the others to 0 or 1."""
    each = bench("mopps", mopps_decay=1.0, mopps_candidates=10)
    for index in range(10):
        for _ in range(100):
            right = 4 if index == 3 else 8 * (index % 2)
            each.feed("a", *[1.0] * right, *[0.0] * (8 - right), index=index)
    each.shares()
    for _ in range(20):
        assert each.arm.pick("a", np.arange(10), 1, RNG, refill=False).tolist() == [3]


def test_candidates_are_a_sample(bench):
    """One candidate for each prompt wanted: the choice is uniform, whatever the posteriors."""
    each = bench("mopps", mopps_candidates=1, mopps_decay=1.0)
    for _ in range(50):
        each.feed("a", *[1.0] * 8, index=0)
    each.shares()
    picks = [each.arm.pick("a", np.arange(10), 2, RNG, refill=False) for _ in range(100)]
    assert set(np.concatenate(picks).tolist()) == set(range(10))
