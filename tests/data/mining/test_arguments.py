from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.code.doctests import CallArguments
from astor_rl.code.slicing import FunctionSlice, ModuleSlicer, Parameter
from astor_rl.data.mining.arguments import POOLS, first_tries, kinds_of, variations, vary


def sliced(head: str) -> FunctionSlice:
    return next(iter(ModuleSlicer(f"def {head}:\n    return 1\n").slices()))


def test_pools_hold_literals() -> None:
    for pool in POOLS.values():
        for text in pool:
            ast.literal_eval(text)


def test_examples_come_first() -> None:
    example = CallArguments(("7",), (("k", "'z'"),))
    tries = first_tries(sliced("f(n, k='a')"), [example], limit=10)
    assert tries[0] == "7, k='z'"
    assert len(tries) == len(set(tries)) == 10


def test_no_more_than_asked() -> None:
    assert len(first_tries(sliced("f(a, b, c)"), [], limit=25)) == 25
    assert first_tries(sliced("f(a, b, c, d)"), [], limit=25) == []
    assert first_tries(sliced("f(a, *, key)"), [], limit=25) == []


def test_a_function_of_many_takes_several() -> None:
    tries = first_tries(sliced("f(*numbers)"), [], limit=3)
    assert all(len(ast.parse(f"f({text})", mode="eval").body.args) == 2 for text in tries)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("parameter", "kind"),
    [
        (Parameter("text", "positional"), "str"),
        (Parameter("n", "positional"), "int"),
        (Parameter("items", "positional"), "ints"),
        (Parameter("mapping", "positional"), "dict"),
        (Parameter("n", "positional", annotation="str"), "str"),
        (Parameter("x", "positional", annotation="list[str]"), "strs"),
        (Parameter("x", "positional", annotation="'float'"), "float"),
    ],
)
def test_the_likeliest_kind_comes_first(parameter: Parameter, kind: str) -> None:
    assert kinds_of(parameter)[0] == kind


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-99, 99), st.floats(-9, 9), st.text("ab c", max_size=5),
        st.binary(max_size=4),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner), st.dictionaries(st.text("ab"), inner)
    ),
    max_leaves=6,
)  # fmt: skip


@given(VALUES, st.integers(0, 2**32 - 1))
def test_a_variation_keeps_the_type(value: Any, seed: int) -> None:
    assert type(vary(value, np.random.default_rng(seed))) is type(value)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_variations_are_new_literal_and_repeatable(seed: int, count: int) -> None:
    good = ["[1, 2], 'ab'", "[3], 'x', k=5"]
    parameters = (
        Parameter("xs", "positional"),
        Parameter("s", "positional"),
        Parameter("k", "positional", "2"),
    )
    found, again = (
        variations(good, parameters, count=count, rng=np.random.default_rng(seed)) for _ in range(2)
    )
    assert found == again
    assert len(found) == len(set(found)) <= count
    assert not set(found) & set(good)
    for text in found:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        for node in [*call.args, *(word.value for word in call.keywords)]:
            ast.literal_eval(node)


def test_optional_parameters_are_given_now_and_then() -> None:
    parameters = (Parameter("n", "positional"), Parameter("k", "keyword", "2"))
    found = variations(["1"], parameters, count=40, rng=np.random.default_rng(0))
    assert any("k=" in text for text in found)
    assert any("k=" not in text for text in found)
