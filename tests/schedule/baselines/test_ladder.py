"""Stages in a given order, and from easy to hard as measured."""

from __future__ import annotations

import pytest

THIRD = pytest.approx([1 / 3] * 3)


def test_stages_of_equal_length_in_the_order_given(bench):
    """T = 10, K = 3: floor(3 t / 10) is 0 for t = 0..3, 1 for t = 4..6, 2 from t = 7."""
    each = bench("sequential", "abc", order=("c", "a", "b"))
    stages = [each.names[each.shares().index(1.0)] for _ in range(12)]
    assert "".join(stages) == "cccc" + "aaa" + "bbbbb"


def test_without_an_order_tasks_come_by_name(bench):
    assert bench("sequential", "abc").shares() == [1.0, 0.0, 0.0]


def test_curriculum_measures_base_pass_rates_first(bench):
    """Means 1/4, 3/4 and 2/4 in two measuring steps: b, c, a from easy to hard."""
    each = bench("curriculum", "abc", measure_steps=2)
    for outcomes in ((0, 0), (0, 1)):
        assert each.shares() == THIRD
        each.feed("a", *outcomes)
        each.feed("b", 1, outcomes[1])
        each.feed("c", 0, 1)
    assert each.arm.note().endswith("at equal shares")
    found = ["abc"[each.shares().index(1.0)] for _ in range(2, 10)]
    # floor(3 t / 10) for t = 2..9
    assert "".join(found) == "bb" + "ccc" + "aaa"
    assert each.arm.terms("a") == {"rung": 2.0, "base_outcome": 0.25}


def test_what_comes_after_measuring_does_not_reorder(bench):
    each = bench("curriculum", "ab", measure_steps=1)
    each.shares()
    each.feed("a", 1)
    each.feed("b", 0)
    assert each.shares() == [1.0, 0.0]
    for _ in range(3):
        each.feed("b", 1, 1, 1)
        each.shares()
    assert each.arm.terms("b") == {"rung": 1.0, "base_outcome": 0.0}


def test_cumulative_stages_keep_earlier_tasks(bench):
    each = bench("curriculum", "ab", order=("b", "a"), cumulative=True)
    found = [each.shares() for _ in range(10)]
    assert found[0] == found[4] == [0.0, 1.0]
    assert found[5] == found[9] == [0.5, 0.5]
