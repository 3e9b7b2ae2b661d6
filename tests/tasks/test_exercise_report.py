"""One test of a file by itself, and its source."""

from __future__ import annotations

import ast

from astor_rl.tasks.exercise_report import defined_tests, message_of, only, source_of

SOURCE = '''import unittest
import pytest

@pytest.mark.parametrize(
    "n", [1, 2]
)
def test_each(n):
    assert n

class FirstTest(unittest.TestCase):
    def setUp(self):
        self.n = 1

    def test_same(self):
        text = """
        several lines
        """
        self.assertEqual(text, self.n)

    def test_other(self): self.fail()

class SecondTest(FirstTest):
    def test_same(self):
        self.fail("second")
'''
TESTS = {"a_test.py": SOURCE}
TWO = {"a_test.py": SOURCE, "b_test.py": "def test_each():\n    pass\n", "c.txt": "def test_c"}


def names(source: str) -> list[str]:
    return [f"{getattr(scope, 'name', '')}::{node.name}" for scope, node in defined_tests(source)]


def test_one_test_is_left_where_it_was():
    assert len(names(SOURCE)) == 4
    found = only(TESTS, "FirstTest::test_same")
    assert found is not None
    left = found["a_test.py"]
    assert names(left) == ["FirstTest::test_same"]
    lines, before = left.split("\n"), SOURCE.split("\n")
    assert len(lines) == len(before)
    assert lines[9:18] == before[9:18]
    assert "def setUp" in left
    for name in ("test_each", "SecondTest::test_same", "FirstTest::test_other"):
        found = only(TESTS, name)
        assert found is not None
        assert names(found["a_test.py"]) in ([name], [f"::{name}"])
        ast.parse(found["a_test.py"])


def test_what_is_inherited_or_not_there_cannot_be_left():
    for name in ("SecondTest::test_other", "<module>", "test_same", "", "x.py::test_each"):
        assert only(TESTS, name) is None
        assert only({"a_test.py": "def test("}, name) is None
        assert source_of(TESTS, name) == ""


def test_of_several_files_one_has_the_test():
    assert only(TWO, "test_each") is None
    found = only(TWO, "b_test.py::test_each")
    assert found is not None
    assert names(found["a_test.py"]) == []
    assert names(found["b_test.py"]) == ["::test_each"]
    assert found["c.txt"] == "def test_c"


def test_the_source_of_a_test_is_all_of_its_lines():
    assert source_of(TESTS, "test_each").startswith("@pytest.mark.parametrize(\n")
    assert source_of(TESTS, "test_each").endswith("def test_each(n):\n    assert n")
    assert source_of(TESTS, "SecondTest::test_same") == (
        'def test_same(self):\n    self.fail("second")'
    )
    assert source_of(TWO, "b_test.py::test_each") == "def test_each():\n    pass"


def test_a_message_is_told_of_its_own_test_only():
    assert (
        message_of(TESTS, "A::t", "A::t: KeyError: 'b: c' (line 1)") == "KeyError: 'b: c' (line 1)"
    )
    assert message_of(TESTS, "t", "t[1-x]: AssertionError") == "AssertionError"
    assert message_of(TWO, "b_test.py::t", "t: E") == "E"
    assert message_of(TWO, "b_test.py::t", "b_test.py::t: not reported") == "not reported"
    assert message_of(TESTS, "A::t", "<module>: NameError: x") == "failed"
    assert message_of(TESTS, "A::t", "failed") == "failed"
