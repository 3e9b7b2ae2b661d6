"""SEC's Q and shares by hand."""

from __future__ import annotations

import math

import pytest


def test_q_and_shares(bench):
    """alpha 0.5, temperature 0.2.

    Step 1: a has groups (1,0,0,0), mean |A| = 2 sqrt(3/16) = 0.866025, and (0,0,0,0), 0: over all
    eight rollouts 0.433013. Q_a = 0.216506. b has (1,0): Q_b = 0.5. Step 2: only b, mean |A| = 0:
    Q_b = 0.25, and Q_a stays (the published code would halve it).
    """
    each = bench("sec")
    assert each.shares() == [0.5, 0.5]
    each.feed("a", 1, 0, 0, 0)
    each.feed("a", 0, 0, 0, 0)
    each.feed("b", 1, 0)
    odds = math.exp((0.216506 - 0.5) / 0.2)
    assert each.shares() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-5)
    each.feed("b", 1, 1)
    odds = math.exp((0.216506 - 0.25) / 0.2)
    assert each.shares() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-5)
    assert each.arm.terms("b") == {"q": 0.25}


def test_no_verdict_is_no_evidence(bench):
    each = bench("sec")
    each.feed("a", 1, 0)
    each.shares()
    each.feed("a")
    each.shares()
    assert each.arm.terms("a") == {"q": 0.5}
