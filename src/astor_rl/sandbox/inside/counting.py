"""Counts the assertions that tests really evaluate."""

from __future__ import annotations

import ast
import functools
import unittest
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

COUNTER: Final = "@assertion"
"""Name of the counter in the tests' builtins: no Python source can spell it."""


class Counter:
    """How many assertions ran. Nested ones (`assertEqual` inside `assertListEqual`) count once."""

    def __init__(self) -> None:
        self.count = 0
        self._depth = 0

    def add(self) -> None:
        """One more."""
        self.count += 1

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counting calls from outside of other wrapped ones."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self._depth:
                self.count += 1
            self._depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1

        return call

    def watch_unittest(self) -> None:
        """Count every `TestCase.assert*` and `fail`. For the life of this process."""
        for name in dir(unittest.TestCase):
            if name.startswith(("assert", "fail")) and name != "failureException":
                setattr(unittest.TestCase, name, self.wrapped(getattr(unittest.TestCase, name)))

    def watch_pytest(self, pytest: ModuleType) -> None:
        """Count `pytest.raises`, `warns` and `fail`. For the life of this process."""
        for name in ("raises", "warns", "deprecated_call", "fail"):
            setattr(pytest, name, self.wrapped(getattr(pytest, name)))


class _Instrument(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        call = ast.Expr(ast.Call(ast.Name(COUNTER, ast.Load()), [], []))
        return [ast.copy_location(call, node), node]


def instrumented(source: str) -> ast.Module:
    """The tree of test source, with a call of the counter before each assert statement.

    Raises:
        SyntaxError: the source doesn't parse, or is nested too deep to walk.
    """
    try:
        tree = ast.parse(source)
        _Instrument().visit(tree)
        return ast.fix_missing_locations(tree)
    except (ValueError, MemoryError, RecursionError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from error


def asserts_at_top_level(source: str) -> bool:
    """Whether an assert runs when the module is loaded, outside functions and classes."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Assert):
                return True
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                waiting.append(node)
    return False
