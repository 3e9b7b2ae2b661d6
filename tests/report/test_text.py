from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.report import text

values = st.lists(st.none() | st.floats(0, 1), max_size=200)


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf])
def test_what_is_not_known_is_never_a_number(unknown: float | None) -> None:
    assert text.number(unknown) == text.small(unknown) == text.percent(unknown) == "unknown"
    assert text.with_error(unknown, 0.1) == text.signed(unknown, 0.1) == "unknown"
    assert text.duration(unknown) == "unknown"


def test_an_unknown_error_is_left_out() -> None:
    assert text.with_error(0.5, None) == text.with_error(0.5, math.nan) == "0.500"
    assert text.with_error(0.5, 0.25) == "0.500 ± 0.250"
    assert text.signed(0.5, 0.25) == "+0.500 ± 0.250"
    assert text.signed(-0.5, None) == "-0.500"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0s"), (59.6, "1m 00s"), (3599, "59m 59s"), (7500, "2h 05m"), (356400, "4d 03h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_a_sparkline_runs_from_zero_to_its_top() -> None:
    assert text.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert text.sparkline([0.0, 0.25], top=1.0) == "▁▃"
    assert text.sparkline([0.0, 1.0], ascii=True) == "_@"
    assert text.sparkline([0.0, 0.0]) == "▁▁"
    assert text.sparkline([]) == ""


def test_unknown_values_are_gaps_in_a_sparkline() -> None:
    assert text.sparkline([1.0, None, math.nan, 1.0]) == "█  █"


def test_a_long_sparkline_averages_its_columns() -> None:
    assert text.sparkline([0.0] * 50 + [1.0] * 50, width=4) == "▁▁██"


@given(values, st.integers(1, 40))
def test_a_sparkline_never_exceeds_its_width(course: list[float | None], width: int) -> None:
    assert len(text.sparkline(course, width=width)) == min(len(course), width)


def test_streams_that_cannot_show_blocks_are_known() -> None:
    assert text.shows_blocks(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not text.shows_blocks(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert not text.shows_blocks(io.StringIO())
