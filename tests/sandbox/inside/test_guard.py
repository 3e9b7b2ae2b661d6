"""What tests change in the framework that judges them is noticed."""

import unittest
from typing import Any

import pytest

from astor_rl.sandbox.inside import collect, guard


def test_nothing_changed() -> None:
    changed = guard.snapshot()
    assert changed() == ""
    unittest.TestCase.longMessage = unittest.TestCase.longMessage  # a setting, and no other
    assert changed() == ""


def test_a_replaced_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = guard.snapshot()
    monkeypatch.setattr(unittest.TestCase, "assertEqual", lambda *_: None)
    assert changed() == "unittest.case.TestCase.assertEqual"
    monkeypatch.undo()
    assert changed() == ""


def test_a_function_with_other_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = guard.snapshot()
    other = (lambda self, first, second, msg=None: None).__code__
    monkeypatch.setattr(unittest.TestCase.assertEqual, "__code__", other)
    assert changed() == "unittest.case.TestCase.assertEqual"


def test_an_added_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = guard.snapshot()
    monkeypatch.setattr(unittest.TestCase, "__eq__", lambda *_: True)
    assert changed() == "unittest.case.TestCase.__eq__"
    monkeypatch.undo()
    monkeypatch.setattr(unittest.TestCase, "new", lambda *_: True, raising=False)
    assert changed() == "unittest.case.TestCase.new"


def test_a_removed_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = guard.snapshot()
    monkeypatch.delattr(collect, "collect")
    assert changed() == "astor_rl.sandbox.inside.collect.collect"


def test_what_says_that_it_is_equal_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Yes:
        def __eq__(self, other: object) -> bool:
            return True

        def __call__(self, *args: Any) -> None:
            """Agree."""

    changed = guard.snapshot()
    monkeypatch.setattr(pytest, "raises", Yes())
    assert changed() == "pytest.raises"
