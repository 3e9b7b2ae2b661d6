from __future__ import annotations

import ast

import pytest

from astor_rl.tasks.parsing import parse_quietly
from astor_rl.tasks.tests_oracle import checks_calls, copied_definition

CODE = '''
def fold(numbers, limit: int = 9):
    """Sums up to a limit."""
    total = 0
    for number in numbers:
        if number > limit:
            raise ValueError(f"{number} is above {limit}")
        total = total + number * number
    return total


def twice(n):
    return n * 2
'''
COPY = CODE.replace("numbers", "xs").replace("number ", "x ").replace("total", "acc")


@pytest.mark.parametrize(
    "tests",
    [
        CODE,
        COPY.replace("fold", "ref"),
        CODE.replace("    total = 0\n", "    total: int = 0\n    print('here')\n"),
        "class T:\n" + "".join(f"    {line}\n" for line in CODE.split("\n")),
        # In two pieces, with a line of its own.
        "def a(n, m):\n    if n > m:\n        raise ValueError(f'{n} is above {m}')\n"
        "def test():\n    t = 0\n    for n in xs:\n        a(n, 9)\n        t = t + n * n\n",
    ],
)
def test_copies_are_found_whatever_they_call_things(tests):
    assert copied_definition(parse_quietly(tests), ast.parse(CODE)) == "fold"


def test_a_copied_expression_in_a_lambda_is_found():
    code = "def area(r, h):\n    return 2 * 3.14 * r * (r + h) + r * r * h"
    tests = "ref = lambda a, b: 2 * 3.14 * a * (a + b) + a * a * b"
    assert copied_definition(ast.parse(tests), ast.parse(code)) == "area"


@pytest.mark.parametrize(
    "tests",
    [
        "",
        "def test():\n    assert fold([1, 2]) == 5\n    assert twice(3) == 3 * 2",
        "def helper(n):\n    return n * 2",
        "def test():\n    total = 0\n    for n in range(3):\n        total += fold([n])\n"
        "    assert total == 5",
        "def test():\n    for case, wanted in [([1], 1)]:\n        assert fold(case) == wanted",
    ],
)
def test_ordinary_tests_copy_nothing(tests):
    assert copied_definition(ast.parse(tests), ast.parse(CODE)) == ""


@pytest.mark.parametrize(
    "tests",
    [
        "x = a" + ".a" * 2500,
        "assert " + "a.assert_(1)." * 400 + "b",
        "\n".join(f"a{n} = a{n + 1}" for n in range(3000)),
        "f = " + "lambda: " * 60 + "1",
    ],
)
def test_deep_or_long_source_is_no_trouble(tests):
    tree = parse_quietly(tests)
    assert copied_definition(tree, ast.parse(CODE)) == ""
    assert not checks_calls(tree, {"fold"})


@pytest.mark.parametrize(
    ("tests", "depends"),
    [
        ("assert fold([1]) == 1", True),
        ("assert fold", False),
        ("fold([1])\nassert True", False),
        ("a = fold([1])\nb = a\nassert b == 1", True),
        ("assert b == 1\nb = a\na = fold([1])", True),
        ("a, *rest = map(fold, xs)\nassert rest", True),
        ("assert [y for y in map(fold, xs)] == [1]", True),
        ("with ctx(fold(x)) as got:\n    assert got", True),
        ("if (n := fold([1])):\n    assert n == 1", True),
        ("with pytest.raises(ValueError):\n    fold([99])", True),
        ("with pytest.raises(ValueError):\n    int('x')", False),
        ("self.assertEqual(fold([1]), 1)", True),
    ],
)
def test_an_assertion_depends_on_a_call(tests, depends):
    assert checks_calls(ast.parse(tests), {"fold"}) is depends
