from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.data.rows import Row
from astor_rl.data.selection import select
from astor_rl.errors import ConfigError


def make(entries: list[tuple[int, int]]) -> list[Row]:
    return [
        Row({"id": f"{n}", "difficulty": level / 10}, f"o{n}", f"u{unit}")
        for n, (unit, level) in enumerate(entries)
    ]


ENTRIES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10)), max_size=40)


@given(ENTRIES, st.integers(0, 20), st.sampled_from(["easy", "mixed"]))
def test_limits_hold_and_units_take_turns(
    entries: list[tuple[int, int]], count: int, order: str
) -> None:
    rows = make(entries)
    found = select(rows, max_examples=count, order=order)  # type: ignore[arg-type]
    available = Counter(row.unit for row in rows)
    given_ = Counter(row.unit for row in found)
    assert len(found) == min(count, len(rows))
    for unit, n in available.items():
        others = max(given_.values(), default=0)
        assert given_[unit] >= min(n, others - 1)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(entries: list[tuple[int, int]], random: object) -> None:
    rows = make(entries)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert select(rows, max_examples=7, seed=3) == select(shuffled, max_examples=7, seed=3)


def test_easy_takes_the_easiest_of_each_unit_in_order() -> None:
    rows = make([(0, 5), (0, 1), (1, 9), (1, 3), (0, 2)])
    found = select(rows, max_examples=3, order="easy")
    assert [(row.unit, row.difficulty) for row in found] == [("u0", 0.1), ("u0", 0.2), ("u1", 0.3)]


def test_the_seed_decides_a_mixture() -> None:
    rows = make([(n, n % 10) for n in range(50)])
    first, again, other = (select(rows, max_examples=10, seed=s) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    "options",
    [
        {"order": "hard"},
        {"max_examples": -1},
    ],
)
def test_bad_options_name_themselves(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        select([], **options)
