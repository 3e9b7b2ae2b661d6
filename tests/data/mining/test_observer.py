from __future__ import annotations

import ast
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.data.mining import _observer

SIMPLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.binary(max_size=8),
)  # fmt: skip
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.tuples(inner, inner),
        st.dictionaries(SIMPLE, inner, max_size=3),
        st.sets(SIMPLE, min_size=1, max_size=4),
    ),
    max_leaves=8,
)


@given(VALUES)
def test_a_literal_reads_back_as_the_value(value: Any) -> None:
    read = ast.literal_eval(_observer.literal(value))
    assert read == value
    assert type(read) is type(value)


class Sub(int):
    pass


deep: list[Any] = []
for _ in range(12):
    deep = [deep]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, Sub(1), object(), {1: object()}, range(3), set(), deep, 1 << 5000]
)
def test_what_is_not_a_literal(value: Any) -> None:
    with pytest.raises(_observer._NotLiteral):
        _observer.literal(value)


def test_sets_are_written_in_one_order() -> None:
    assert _observer.literal({"b", "a", "c"}) == "{'a', 'b', 'c'}"


SOURCE = """
import sys
def f(x):
    if x == 'loop':
        while True:
            pass
    if x == 'swallow':
        while True:
            try:
                while True:
                    pass
            except Exception:
                pass
    if x == 'print':
        print('hi')
    if x == 'exit':
        sys.exit(0)
    if x == 'endless':
        import itertools
        return itertools.count()
    if x == 'object':
        return object()
    if x == 'long':
        return 'y' * 1000
    if isinstance(x, list):
        x.append(1)
    return x if x != 'lazy' else iter([1, 2])
"""


@pytest.mark.parametrize(
    ("argument", "verdict", "text"),
    [
        ("3", "value", "3"),
        ("x=(1,)", "value", "(1,)"),
        ("'lazy'", "value", "[1, 2]"),
        ("'loop'", "spent", ""),
        ("'swallow'", "spent", ""),
        ("'print'", "printed", ""),
        ("'exit'", "raised", "SystemExit"),
        ("'endless'", "endless", ""),
        ("'object'", "opaque", ""),
        ("'long'", "long", ""),
        ("[0]", "mutated", ""),
        ("1, 2", "raised", "TypeError"),
        ("undefined", "opaque", ""),
    ],
)
def test_verdicts(argument: str, verdict: str, text: str) -> None:
    ((found,),) = _observer.run([SOURCE], "f", [argument], max_text=60, budget=500)
    assert found[:2] == (verdict, text)
    assert found[2] == (argument in ("'lazy'", "'endless'"))


def test_lines_are_counted() -> None:
    source = "def f(n):\n    for i in range(n):\n        i += 1\n    return n\n"
    ((few, many),) = _observer.run([source], "f", ["1", "10"], max_text=60, budget=500)
    assert many[3] > few[3] > 0


def test_sources_that_do_not_load_have_no_results() -> None:
    bad = ["def f(:", "raise SystemExit", "g = 1", "print('x')\ndef f(x): return x"]
    assert [len(row) for row in _observer.run(bad, "f", ["1"], 60, 500)] == [0, 0, 0, 1]


def test_versions_do_not_see_each_other() -> None:
    sources = ["STATE = [1]\ndef f():\n    return STATE", "def f():\n    return STATE"]
    first, second = _observer.run(sources, "f", [""], 60, 500)
    assert first[0][:2] == ("value", "[1]")
    assert second[0][:2] == ("raised", "NameError")
