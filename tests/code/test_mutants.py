from __future__ import annotations

import ast
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astor_rl.code.mutants import OPERATORS, Mutant, mutate
from astor_rl.errors import ConfigError, DataError


def changes(source, op):
    """(before, after) of every mutant of one operator."""
    return {(m.before, m.after) for m in mutate(source, operators=[op])}


@pytest.mark.parametrize(
    ("op", "source", "expected"),
    [
        ("compare", "a < b", {("<", "<=")}),
        ("compare", "a < b >= c", {("<", "<="), (">=", ">")}),
        ("compare", "a not  in b", {("not  in", "in")}),
        ("compare", "a is b", {("is", "is not")}),
        ("compare", "(a\n ) == ( # a == comment\n b)", {("==", "!=")}),
        ("arith", "a + b", {("+", "-")}),
        ("arith", "(a) // (b)", {("//", "/")}),
        ("arith", "n **= 2", {("**=", "*=")}),
        ("const_int", "f(0)", {("0", "1")}),
        ("const_int", "f(7)", {("7", "8"), ("7", "6")}),
        ("const_float", "f(0.5)", {("0.5", "1.5")}),
        ("const_str", "f('ab', '')", {("'ab'", '""'), ("''", '"x"')}),
        ("const_bool", "f(True)", {("True", "False")}),
        ("negate", "if a < b: pass", {("a < b", "not (a < b)")}),
        ("negate", "x = [a for a in b if a]", {("a", "not (a)")}),
        ("negate", "if a == b: pass", set()),
        ("boolop", "a and b and c", {("and", "or")}),
        ("unary", "x = not a", {("not ", "")}),
        ("unary", "x = -a", {("-", "")}),
        ("return_none", "def f(a):\n    return a", {("return a", "return None")}),
        ("return_none", "def f(a):\n    return", set()),
        ("remove_statement", "def f(a):\n    a.sort()", {("a.sort()", "pass")}),
        ("remove_statement", "a[0] = 1", {("a[0] = 1", "pass")}),
        ("remove_statement", "a = 1", set()),
        ("break_continue", "for a in b:\n    break", {("break", "continue")}),
        ("slice", "a[i:]", {("i", "i + 1"), ("i", "i - 1")}),
        ("slice", "a[:x or y]", {("x or y", "(x or y) + 1"), ("x or y", "(x or y) - 1")}),
        ("slice", "a[1:]", set()),
        ("range", "range(1, n, 2)", {("n", "n + 1"), ("n", "n - 1")}),
        ("swap_args", "f(a, b + 1, c)", {("a, b + 1", "b + 1, a")}),
        ("swap_args", "f(a, a)", set()),
        ("call", "min(a)", {("min", "max")}),
        ("call", "s.upper()", {("upper", "lower")}),
    ],
)
def test_what_an_operator_changes(op, source, expected):
    assert changes(source, op) == expected


def test_every_operator_is_tested_above():
    (mark,) = test_what_an_operator_changes.pytestmark
    assert {case[0] for case in mark.args[1]} == set(OPERATORS)


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Doc 1."""',
        "def f(a: Literal[1] = x) -> Literal[2]: ...",
        'f"{a + 1}"',
        'if __name__ == "__main__":\n    f(1 + 2)',
    ],
)
def test_what_has_no_behaviour_is_left_alone(source):
    assert mutate(source) == []


def test_only_the_changed_bytes_change():
    source = "# größe\ndef f(a, b):  # ünder\n    s = 'ä'; return a+b   # sum, not a-b\n"
    (mutant,) = mutate(source, operators=["arith"])
    assert mutant == Mutant("arith", 3, source.replace("a+b ", "a-b "), "+", "-")


def test_windows_newlines():
    (mutant,) = mutate("x = 1\r\ny = a + b\r\n", operators=["arith"])
    assert (mutant.line, mutant.code) == (2, "x = 1\ny = a - b\n")


PAIR = """
LIMIT = 3

def helper(a):
    return a + LIMIT

def f(a):
    return helper(a) * 2

def unrelated(a):
    return a - 1

class Box:
    def get(self, a):
        return a // 7

    def put(self, a):
        return a % 5
"""


@pytest.mark.parametrize(
    ("entry_point", "lines"),
    [("f", {2, 5, 8}), ("unrelated", {11}), ("Box", {15, 18}), ("Box.put", {18})],
)
def test_only_what_the_entry_point_leads_to_is_changed(entry_point, lines):
    assert {mutant.line for mutant in mutate(PAIR, entry_point=entry_point)} == lines


def test_a_limit_takes_the_first_and_spreads_over_operators():
    everything = mutate(PAIR, seed=3)
    assert mutate(PAIR, seed=3, limit=4) == everything[:4]
    assert len({mutant.op for mutant in everything[:3]}) == 3
    assert mutate(PAIR, limit=0) == []
    assert [m.code for m in mutate(PAIR, seed=4)] != [m.code for m in everything]


def test_the_order_is_the_same_everywhere():
    assert [(m.op, m.line, m.after) for m in mutate(PAIR, entry_point="f", limit=3)] == [
        ("return_none", 5, "return None"),
        ("const_int", 8, "3"),
        ("arith", 5, "-"),
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"entry_point": "g"}, DataError),
        ({"entry_point": "Box.pop"}, DataError),
        ({"limit": -1}, ConfigError),
        ({"operators": ["typo"]}, ConfigError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error, match=r"g|pop|-1|typo"):
        mutate(PAIR, **options)


def test_source_that_does_not_parse():
    with pytest.raises(DataError, match="does not parse"):
        mutate("def f(:")


EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "1", "0", "'s'", "2.5", "True", "-a", "(not a)"]),
    lambda inner: st.one_of(
        st.builds(
            "({} {} {})".format,
            inner,
            st.sampled_from(["+", "-", "*", "//", "<", "==", "in", "not in", "and", "or", "is"]),
            inner,
        ),
        st.builds("f({}, {})".format, inner, inner),
        st.builds("a[{}:{}]".format, inner, inner),
        st.builds("range({})".format, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(EXPRESSIONS, st.integers(0, 5))
def test_mutants_parse_differ_and_are_distinct(expression, seed):
    source = f"def f(a, b):\n    return {expression}\n"
    shapes = [ast.dump(ast.parse(m.code)) for m in mutate(source, seed=seed)]
    assert len({ast.dump(ast.parse(source)), *shapes}) == len(shapes) + 1
    for mutant in mutate(source, seed=seed):
        assert mutant.op in OPERATORS
        assert mutant.before in source
        assert mutant.after in mutant.code


@pytest.mark.shared
def test_real_functions(shared_data):
    path = shared_data / "unit_test_generation.train.thealgorithms.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::40]
    for row in rows:
        mutants = mutate(row["code"], entry_point=row["entry_point"], limit=5)
        assert len(mutants) == 5
        for mutant in mutants:
            compile(mutant.code, "mutant", "exec")
