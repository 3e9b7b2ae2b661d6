"""DUMP's bounds by hand."""

from __future__ import annotations

import math

import pytest


def test_bounds_and_shares(bench):
    """a: 4 rollouts of mean |A| = 2 sqrt(3/16) = 0.866025; b: 2 of mean 1. N = 6.

    UCB_a = 0.866025 + sqrt(2 ln 7 / 5) = 0.866025 + 0.882249 = 1.748274
    UCB_b = 1 + sqrt(2 ln 7 / 3) = 1 + 1.138979 = 2.138979;  b - a = 0.390705, tau = 0.1
    """
    each = bench("dump")
    assert each.shares() == [0.5, 0.5]
    each.feed("a", 1, 0, 0, 0)
    each.feed("b", 0, 1)
    odds = math.exp(-0.390705 / 0.1)
    assert each.shares() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-5)
    assert each.arm.terms("b") == pytest.approx({"advantage": 1, "bonus": 1.138979, "rollouts": 2})


def test_the_window_forgets_but_the_count_does_not(bench):
    """Window 4: after (1, 0) and then (1, 1, 1, 1) only the zeros are left."""
    each = bench("dump", dump_window=4)
    each.feed("a", 1, 0)
    each.shares()
    each.feed("a", 1, 1, 1, 1)
    each.shares()
    assert each.arm.terms("a")["advantage"] == 0.0
    assert each.arm.terms("a")["rollouts"] == 6.0
