"""TAC's scores by hand."""

from __future__ import annotations

import math

import pytest


def test_learnability_times_transferability(bench):
    """rate 0.5: A = 0.5 for a task with group (1, 0) after one step. a = 2, tau = 0.2.

    Scores 0.5 (1 + 2 x 0.3) = 0.8, 0.5 (1 - 2 x 0.1) = 0.4 and 0.5 for an unresolved cosine.
    """
    each = bench("tac", "abc", tac_weight=2.0)
    for name in "abc":
        each.feed(name, 1, 0)
    weights = [math.exp(score / 0.2) for score in (0.8, 0.4, 0.5)]
    found = each.shares(a=0.3, b=-0.1)
    assert found == pytest.approx([weight / sum(weights) for weight in weights])
    assert each.arm.terms("b") == {"advantage": 0.5, "transfer": -0.1}


def test_advantages_are_averaged_over_steps(bench):
    """rate 0.5: groups of mean |advantage| 1, then 0, then 1 give A = 0.5, 0.25 and 0.625."""
    each, found = bench("tac"), []
    for outcomes in ((1, 0), (1, 1), (1, 0)):
        each.feed("a", *outcomes)
        each.shares()
        found.append(each.arm.terms("a")["advantage"])
    assert found == pytest.approx([0.5, 0.25, 0.625])


def test_without_transfer_it_is_a_bandit_over_advantages(bench):
    tac, sec = bench("tac"), bench("sec")
    for each in (tac, sec):
        each.feed("a", 1, 0, 0)
        each.feed("b", 1, 1)
    assert tac.shares() == sec.shares()
