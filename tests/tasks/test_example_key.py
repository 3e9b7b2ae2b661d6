from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import DataError
from astor_rl.tasks.example_key import content_key

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_field_order_does_not_matter(fields):
    reversed_fields = dict(reversed(fields.items()))
    key = content_key("kind", fields)
    assert key == content_key("kind", reversed_fields)
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")


def test_the_key_is_the_same_on_every_machine():
    assert content_key("io_prediction", {"a": 1, "b": ["ü", None]}) == (
        "2fb0836275ac5ff222f000e58eac6370"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [({"a": 1}, {"a": 1.0}), ({"a": 1}, {"a": True}), ({"a": "1"}, {"a": 1}), ({}, {"a": None})],
)
def test_values_and_types_count(one, other):
    assert content_key("kind", one) != content_key("kind", other)


def test_the_kind_counts():
    assert content_key("one", {}) != content_key("other", {})


def test_what_is_not_json_is_refused():
    with pytest.raises(DataError, match="must be JSON"):
        content_key("kind", {"a": {1, 2}})
