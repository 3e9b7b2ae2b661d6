"""E2H's two schedules, by hand for three levels."""

from __future__ import annotations

import math

import pytest


def test_gaussian(bench):
    """K = 3: p_min = 2 / (3 x 4) = 1/6, so shares are 1/6 + q/2.

    With e = 1/2 the centre is sqrt(t / 10) x 2. sigma = 1/2, so q is proportional to
    exp(-2 (i - mu)^2). t = 0: mu = 0, exponents 0, -2, -8. t = 10: mirrored.
    """
    each = bench("e2h", "abc", order=("a", "b", "c"))
    found = [each.shares() for _ in range(12)]
    bell = [1, math.exp(-2), math.exp(-8)]
    start = [1 / 6 + b / sum(bell) / 2 for b in bell]
    assert found[0] == pytest.approx(start)
    assert found[10] == found[11] == pytest.approx(start[::-1])
    # t = 4: mu = 2 sqrt(0.4) = 1.26491; exponents -2 x (1.6, 0.070178, 0.540356)
    bell = [math.exp(-3.2), math.exp(-0.140356), math.exp(-1.080712)]
    assert found[4] == pytest.approx([1 / 6 + b / sum(bell) / 2 for b in bell], abs=1e-5)


def test_cosine(bench):
    """K = 3: early (3, 2, 1) / 6 and late (1, 2, 3) / 6; halfway both are mixed to 1/3 each."""
    each = bench("e2h", "abc", order=("c", "b", "a"), e2h_schedule="cosine")
    found = [each.shares() for _ in range(11)]
    assert found[0] == pytest.approx([1 / 6, 2 / 6, 3 / 6])  # c is the easiest
    assert found[5] == pytest.approx([1 / 3] * 3)
    assert found[10] == pytest.approx([3 / 6, 2 / 6, 1 / 6])


@pytest.mark.parametrize("schedule", ["gaussian", "cosine"])
def test_one_level(bench, schedule):
    assert bench("e2h", "a", order=("a",), e2h_schedule=schedule).shares() == [1.0]
