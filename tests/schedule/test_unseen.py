"""The lazy shuffle: uniform, complete, resumable."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import StateError
from astor_rl.schedule.unseen import Unseen


@given(st.integers(0, 40), st.integers(0, 2**32), st.data())
def test_every_index_is_drawn_once(size: int, seed: int, data: st.DataObject) -> None:
    unseen, rng, drawn = Unseen(size), np.random.default_rng(seed), []
    while unseen.left:
        drawn += unseen.draw(data.draw(st.integers(1, unseen.left)), rng).tolist()
        assert unseen.left == size - len(drawn)
    assert sorted(drawn) == list(range(size))


def test_all_orders_are_equally_likely() -> None:
    rng = np.random.default_rng(0)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(6000):
        unseen = Unseen(4)
        counts[tuple(unseen.draw(1, rng).tolist() + unseen.draw(2, rng).tolist())] += 1
    assert set(counts) == set(permutations(range(4), 3))
    chi2 = sum((n - 250) ** 2 / 250 for n in counts.values())
    assert chi2 < 49.7  # 0.999 quantile at 23 degrees of freedom


def test_size_costs_nothing() -> None:
    unseen, rng = Unseen(10**12), np.random.default_rng(0)
    assert len(set(unseen.draw(50, rng).tolist())) == 50
    assert len(unseen.state_dict()["positions"]) <= 50


@given(st.integers(1, 40), st.data())
def test_without_leaves_exactly_the_rest(size: int, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, size - 1)))
    unseen = Unseen.without(size, gone)
    assert unseen.left == size - len(gone)
    rest = unseen.draw(unseen.left, np.random.default_rng(0)).tolist()
    assert sorted(rest) == sorted(set(range(size)) - gone)


def test_state_round_trip_is_exact_and_strict() -> None:
    unseen = Unseen(100)
    unseen.draw(30, np.random.default_rng(0))
    again = Unseen(100)
    again.load_state_dict(unseen.state_dict())
    first = unseen.draw(70, np.random.default_rng(1))
    np.testing.assert_array_equal(first, again.draw(70, np.random.default_rng(1)))
    with pytest.raises(StateError, match="is of 100, not 99"):
        Unseen(99).load_state_dict(unseen.state_dict())
