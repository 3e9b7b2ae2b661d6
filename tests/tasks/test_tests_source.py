from __future__ import annotations

import ast

import pytest

from astor_rl.tasks import tests_source
from astor_rl.tasks.tests_source import (
    contradicted,
    has_assertion,
    shortened,
    with_imports,
    without_import_of,
    without_skips,
)

MANY = """import math
import pytest
from focal import f


@pytest.mark.parametrize("a, b", [(1, 2), (3, 4), (5, 6)])
def test_rows(a, b):
    assert f(a) == b  # a comment


class TestBox:
    def helper(self):
        return math.pi

    def test_one(self):
        x = self.helper()
        assert f(x)
        assert f(-x)

    def test_two(self):
        with pytest.raises(ValueError):
            f("")


assert f(0) == 1
for n in range(3):
    assert f(n)
"""


def test_counting():
    assert tests_source.count_tests(ast.parse(MANY)) == 5
    assert tests_source.count_tests(ast.parse("def helper(): assert f()")) == 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert f()", True),
        ("class T:\n    def test(self): self.assertEqual(1, 2)", True),
        ("with pytest.raises(E): f()", True),
        ("f()", False),
    ],
)
def test_assertions_are_found(source, expected):
    assert has_assertion(ast.parse(source)) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert f()", "from focal import f, g\nassert f()"),
        ('"""Doc."""\nfrom __future__ import annotations\nx = 1', None),
        ("@mark\ndef test(): pass", "from focal import f, g\n@mark\ndef test(): pass"),
        ('"""Doc."""', '"""Doc."""\nfrom focal import f, g'),
        ("import focal\nassert focal.f()", "import focal\nassert focal.f()"),
        ("def test():\n    from focal import f", "def test():\n    from focal import f"),
    ],
)
def test_imports_are_added_where_there_are_none(source, expected):
    if expected is None:
        head, _, tail = source.rpartition("\n")
        expected = f"{head}\nfrom focal import f, g\n{tail}"
    result = with_imports(source, ast.parse(source), "focal", {"g", "f"})
    assert result == expected
    compile(result, "tests", "exec")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from focal import (\n    f,\n    g,\n)\nassert f()\n", "assert f()\n"),
        ("from focal import *\n\nassert f()\n", "assert f()\n"),
        ("from focal import f as h\nassert h()\n", None),
        ("import focal\nassert focal.f()\n", None),
        ("from focal import hidden\nassert hidden()\n", None),
        ("from focal import f\nimport focal\n", None),
    ],
)
def test_imports_that_are_given_are_dropped(source, expected):
    assert without_import_of(source, "focal", {"f", "g"}) == (expected or source)


def test_short_sources_are_left_alone():
    assert shortened(MANY, tests=5) == MANY


@pytest.mark.parametrize(
    ("limits", "tests", "assertions"),
    [
        ({"tests": 8, "assertions": 2}, 1, 1),
        ({"tests": 1}, 1, 1),
        ({"tests": 2}, 2, 3),
        ({"tests": 8, "assertions": 4}, 2, 2),
        ({"tests": 8, "assertions": 7}, 4, 5),
    ],
)
def test_shortening(limits, tests, assertions):
    result = shortened(MANY, **limits)
    tree = ast.parse(result)
    assert tests_source.count_tests(tree) == tests
    assert sum(map(tests_source.is_assertion, ast.walk(tree))) == assertions
    assert ("import math" in result) == ("math.pi" in result)


def test_rows_of_parametrize_count():
    assert "[(1, 2), (3, 4)])" in shortened(MANY, tests=8, assertions=2)


def test_statements_after_the_last_assertion_go():
    source = "def test():\n    a = 1\n    assert a\n    b = 2\n    assert b\n"
    assert shortened(source, tests=1, assertions=1) == "def test():\n    a = 1\n    assert a\n"


def test_skips_become_returns():
    source = "import pytest\n\ndef test(x):\n    if x:\n        pytest.skip('slow')\n    assert x\n"
    assert without_skips(source) == source.replace("pytest.skip('slow')", "return")
    assert without_skips("# not\nassert 1") == "# not\nassert 1"


def test_contradictions():
    assert contradicted("assert f() == 1") == "assert not f() == 1\n"
    assert contradicted("self.assertEqual(a, b)") == "self.assertNotEqual(a, b)\n"
    assert contradicted("self.assertNotIn(a, b)") == "self.assertIn(a, b)\n"
    assert contradicted("f()") == ""
