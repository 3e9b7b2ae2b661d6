from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.sandbox.api import Opaque
from astor_rl.tasks.literals import (
    MAX_CHARS,
    MAX_DEPTH,
    MAX_ELEMENTS,
    NAMES,
    LiteralError,
    is_plain,
    loosely_equal,
    parse_arguments,
    parse_literal,
    shown,
    strictly_equal,
    to_source,
)

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.integers(-9, 9).map(range)
)
hashables = st.recursive(
    atoms,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.sets(hashables, max_size=4)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=10,
)


@given(values)
def test_the_repr_of_a_value_reads_back_strictly_equal(value):
    assert strictly_equal(parse_literal(repr(value)), value)


@given(st.complex_numbers(allow_nan=False, allow_infinity=False))
def test_complex_numbers_read_back(value):
    # `-1j` reads as -(1j), whose real part is -0.0: compare by the number.
    assert parse_literal(repr(value)) == value


@given(values)
def test_source_written_for_a_value_evaluates_to_it(value):
    namespace: dict[str, object] = {}
    exec(f"{NAMES}\nvalue = {to_source(value)}", namespace)
    assert strictly_equal(namespace["value"], value)


@given(values, values)
def test_equality_is_an_equivalence_that_agrees_with_repr(left, right):
    assert strictly_equal(left, left)
    assert strictly_equal(left, right) == strictly_equal(right, left)
    if repr(left) == repr(right):
        assert strictly_equal(left, right)
    # A container that holds a nan equals itself, and not another that holds another nan.
    if strictly_equal(left, right) and "nan" not in repr(left):
        assert left == right


@given(st.lists(values, max_size=3))
def test_another_type_is_never_equal(items):
    assert not strictly_equal(items, tuple(items))
    assert not strictly_equal([items], [tuple(items)])
    assert not strictly_equal({"k": items}, {"k": tuple(items)})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (7, 7.0),
        (1, True),
        (0, False),
        (0.0, -0.0),
        ("a", b"a"),
        ({1}, frozenset({1})),
        ({1}, {True}),
        ({1: 2}, {1.0: 2}),
        ({1: 2}, {1: 2.0}),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        (range(3), [0, 1, 2]),
        (range(0), range(1, 1)),
        (0.1 + 0.2, 0.3),
        (None, "None"),
        (1j, 1),
        ((1, (2, 3)), (1, 2, 3)),
    ],
)
def test_unequal(left, right):
    assert not strictly_equal(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (math.nan, math.nan),
        ([math.nan], [float("nan")]),
        ({1, 2, 3}, {3, 2, 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (0.1 + 0.2, 0.30000000000000004),
        (-math.inf, float("-inf")),
    ],
)
def test_equal(left, right):
    assert strictly_equal(left, right)


def test_numbers_of_too_many_digits_compare_but_are_not_written():
    assert strictly_equal(10**5000, 10**5000)
    assert not strictly_equal(10**5000, 10**5000 + 1)
    with pytest.raises(LiteralError, match="digits"):
        to_source(10**5000)


def test_opaque_values_and_absurd_nesting_equal_nothing():
    opaque = Opaque("Thing", "<Thing>")
    deep: list[object] = []
    for _ in range(MAX_DEPTH + 5):
        deep = [deep]
    for value in (opaque, [opaque], {"a": opaque}, {1: (opaque,)}, deep):
        assert not is_plain(value)
        assert not strictly_equal(value, value)
        assert not loosely_equal(value, value)
        with pytest.raises(LiteralError):
            to_source(value)


def test_an_asserts_equality_is_pythons():
    assert loosely_equal(1, True)
    assert loosely_equal([1.0], [1])
    assert not loosely_equal((1,), [1])
    assert not loosely_equal(float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 7 ", 7),
        ("-7", -7),
        ("+7", 7),
        ("(1+2j)", 1 + 2j),
        ("-inf", -math.inf),
        ("float('-inf')", -math.inf),
        ("set()", set()),
        ("set([1, 2])", {1, 2}),
        ("frozenset({1})", frozenset({1})),
        ("range(1, 5)", range(1, 5)),
        ("dict(a=1)", {"a": 1}),
        ("1, 2", (1, 2)),
        ("'a' 'b'", "ab"),
        (r"'\d'", r"\d"),
        ("1e400", math.inf),
    ],
)
def test_what_can_be_read(text, value):
    assert strictly_equal(parse_literal(text), value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(1)",
        "len('ab')",
        "[1, 2][0]",
        "1 + 1",
        "'a' * 9",
        "2 ** 9",
        "--1",
        "not True",
        "x",
        "print",
        "...",
        "f'{1}'",
        "lambda: 1",
        "[i for i in ()]",
        "{**{}}",
        "[*[1]]",
        "{[1]: 2}",
        "{[1]}",
        "range(0, 1, 0)",
        "range(True)",
        "set(1)",
        "set(range(10 ** 9))",
        "set(range(1000000000))",
        "dict([(1, 2)])",
        "dict(**{})",
        "float('1')",
        "().__class__",
        "__import__('os')",
        "1; 2",
        "x := 1",
        "1\n2",
        "9" * 5000,
        "1" * (MAX_CHARS + 1),
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "(" * 1000,
        "-" * 10_000 + "1",
        "1j + 1",
        "1 + 2j + 3j",
        "1 - -2j",
        "+".join(["1"] * 990),
        "1" + "0" * 400 + " + 1j",
        "list(range(99999999999999999999999))",
        "set(range(-(10**30), 10))",
        f"list(range({MAX_ELEMENTS + 1}))",
        "[" + ", ".join(["tuple(range(1900))"] * 2) + "]",
        "list(" * 2 + "range(1000)" + ")" * 2,
        "[" + "0," * MAX_ELEMENTS + "]",
        "a" + ".a" * 2500,
    ],
)
def test_what_is_refused(text):
    with pytest.raises(LiteralError):
        parse_literal(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("", ""),
        ("1,[2]", "1, [2]"),
        ("[1, 2], k = 3", "[1, 2], k=3"),
        ("1 # one", "1"),
        ("[-inf], nan", "[-float('inf')], float('nan')"),
        ("range(3), dict(a=1)", "range(3), dict(a=1)"),
    ],
)
def test_arguments_that_can_be_read(text, normal):
    assert parse_arguments(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "*[1]",
        "**{}",
        "1) or f(2",
        "1)(2",
        "1).x(2",
        "1)\nf(2",
        "f(1)",
        "x",
        "x := 1",
        "lambda: 1",
        "(i for i in [])",
        "i for i in []",
        "1,,",
        "k=1, 2",
    ],
)
def test_arguments_that_are_refused(text):
    with pytest.raises(LiteralError):
        parse_arguments(text)


@pytest.mark.parametrize("text", ["a" + ".a" * 2500, "0x" + "f" * 9000, "+".join(["1"] * 990)])
def test_arguments_that_overrun_what_writes_them_are_refused(text):
    with pytest.raises(LiteralError):
        parse_arguments(text)


@pytest.mark.parametrize("error", [RecursionError, OverflowError, MemoryError, ValueError])
def test_whatever_reading_overruns_is_a_refusal(error, monkeypatch):
    def overrun(text, mode):
        raise error("too much")

    monkeypatch.setattr("astor_rl.tasks.literals.parse_quietly", overrun)
    for read in (parse_literal, parse_arguments):
        with pytest.raises(LiteralError, match=rf"can't be read \({error.__name__}\)"):
            read("1")


def test_huge_ranges_that_are_not_spelled_out_can_be_read():
    assert parse_literal(f"range({10**30})") == range(10**30)
    assert parse_literal("list(range(3, 9, 2))") == [3, 5, 7]
    assert parse_literal("tuple(range(5, 0))") == ()


def test_values_for_people_are_cut():
    assert shown([1]) == "[1]"
    assert len(shown("x" * 999, 50)) == 50
    assert shown(Opaque("T", "<T>")) == "<T>"
    assert "digits" in shown(10**5000)
