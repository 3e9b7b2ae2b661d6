"""Messages of the shared checks name the thing, the value, and what would be right."""

from __future__ import annotations

import math
from typing import Any

import pytest

from astor_rl.checks import check_choice, check_count, check_keys, check_number
from astor_rl.errors import ConfigError, StateError


@pytest.mark.parametrize("value", [1.0, 0, 3, 2.5])
def test_numbers_in_range_pass(value: float) -> None:
    check_number("x.y", value, low=0, high=3)


@pytest.mark.parametrize("value", [-0.1, 3.1, math.nan, math.inf, "1", None, True])
def test_other_numbers_do_not(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_number("x.y", value, low=0, high=3)
    assert str(caught.value) == f"x.y is {value!r}; it must be a finite number in [0, 3]"


def test_open_ends() -> None:
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        check_number("x", 0.0, low=0, high=1, above=True)
    with pytest.raises(ConfigError, match="above 0"):
        check_number("x", 0.0, low=0, above=True)
    with pytest.raises(ConfigError, match="at least 0"):
        check_number("x", -1.0, low=0)


@pytest.mark.parametrize("value", [0, 1.0, "2", True])
def test_counts(value: Any) -> None:
    check_count("x", 1, low=1)
    with pytest.raises(ConfigError, match="it must be an integer of at least 1"):
        check_count("x", value, low=1)


def test_choices_and_keys() -> None:
    check_choice("x", "a", ("a", "b"))
    with pytest.raises(ConfigError, match="x is 'c'; it must be one of a, b"):
        check_choice("x", "c", ("a", "b"))
    check_keys("it", {"a": 1}, ["a"])
    with pytest.raises(StateError) as caught:
        check_keys("it", {"a": 1}, ["b"])
    assert str(caught.value) == "state of it: missing ['b'], unknown ['a']"
