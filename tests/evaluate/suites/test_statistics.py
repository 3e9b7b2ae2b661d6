"""Estimates against closed forms and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.evaluate.suites.statistics import (
    jackknife,
    mean_metric,
    pass_at_k,
    pass_metrics,
)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_counts_the_subsets_with_a_right_one(samples, data):
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    drawn = list(itertools.combinations([1] * right + [0] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, drawn)) / len(drawn))


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 2), (2, 3, 1), (2, 1, 0)])
def test_what_is_not_defined_is_refused(n, c, k):
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(n, c, k)


def test_an_example_that_lacks_a_sample_does_not_take_a_figure_from_the_others():
    found = pass_metrics([[1.0] * 5, [0.0] * 4, [0.0] * 5])
    assert (found["pass@5"].value, found["pass@5"].examples) == (0.5, 2)
    assert found["pass@1"].examples == 3


def test_pass_metrics_are_those_that_there_are_samples_for():
    found = pass_metrics([[1.0, 0.0, 0.0, 0.0, 0.0], [0.5, 1.0, 1.0, 1.0, 1.0], []])
    assert set(found) == {"pass@1", "pass@5"}
    assert found["pass@1"].value == pytest.approx((0.2 + 0.8) / 2)
    assert found["pass@5"].value == 1.0
    assert found["pass@1"].examples == 2
    assert found["pass@1"].se == pytest.approx(0.6 / math.sqrt(2) / math.sqrt(2))


def test_errors_are_clustered_by_example():
    # Ten samples of one example say no more of other examples than one does.
    few = pass_metrics([[float(e % 2)] for e in range(40)])["pass@1"]
    many = pass_metrics([[float(e % 2)] * 10 for e in range(40)])["pass@1"]
    assert many.se == pytest.approx(few.se)


def test_means_of_nothing_and_of_one():
    assert math.isnan(mean_metric([]).value)
    assert mean_metric([0.25]).se is None
    assert pass_metrics([])["pass@1"].examples == 0


def test_examples_that_are_alike_beyond_one_have_no_known_error():
    # B-CC of thirty subjects of five words or more that are all right.
    found = mean_metric([1.125] * 30)
    assert (found.value, found.se) == (1.125, None)
    assert mean_metric([1.0] * 30).se is not None


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).random(40).tolist()
    found = jackknife(values, lambda part: float(np.mean(part)))
    assert found.value == pytest.approx(np.mean(values))
    assert found.se == pytest.approx(mean_metric(values).se)
    assert jackknife([0.0, 0.0], lambda part: 0.0).se is None
    assert math.isnan(jackknife([], lambda part: 0.0).value)
