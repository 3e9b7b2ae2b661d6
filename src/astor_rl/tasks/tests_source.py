"""Reading and rewriting the source of tests: imports, counting, shortening, contradicting."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from typing import TypeGuard

from astor_rl.syntax import parse

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_OPPOSITES = {
    "assertEqual": "assertNotEqual",
    "assertTrue": "assertFalse",
    "assertIn": "assertNotIn",
    "assertIs": "assertIsNot",
    "assertIsNone": "assertIsNotNone",
    "assertIsInstance": "assertNotIsInstance",
    "assertAlmostEqual": "assertNotAlmostEqual",
    "assertListEqual": "assertNotEqual",
    "assertDictEqual": "assertNotEqual",
    "assertTupleEqual": "assertNotEqual",
    "assertSetEqual": "assertNotEqual",
    "assertCountEqual": "assertNotEqual",
    "assertGreater": "assertLessEqual",
    "assertLess": "assertGreaterEqual",
}
_OPPOSITES |= {after: before for before, after in _OPPOSITES.items() if after != "assertNotEqual"}
_OPPOSITES["assertNotEqual"] = "assertEqual"


def count_tests(tests: ast.Module) -> int:
    """Test functions, methods of test classes, and assert statements outside of them."""
    count = 0
    for node in tests.body:
        if isinstance(node, ast.ClassDef):
            count += sum(_is_test(member) for member in node.body)
        elif isinstance(node, _Function):
            count += _is_test(node)
        else:
            count += sum(isinstance(part, ast.Assert) for part in ast.walk(node))
    return count


def has_assertion(tests: ast.AST) -> bool:
    """Whether an assert statement, a unittest assertion or `pytest.raises` occurs anywhere."""
    return any(is_assertion(node) for node in ast.walk(tests))


def is_assertion(node: ast.AST) -> bool:
    """Whether a node is an assert statement, or a call of `assert...` or `raises`."""
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr.startswith("assert") or node.func.attr == "raises"
    return False


def with_imports(source: str, tests: ast.Module, module: str, names: Collection[str]) -> str:
    """The source with `from module import <names>` in front, unless it imports the module itself.

    A docstring and `from __future__` imports, which must come first, stay first.

    Args:
        source: the tests.
        tests: their syntax tree.
        module: import name of the module under test.
        names: what to import from it.
    """
    if not names or any(_imports(node, module) for node in ast.walk(tests)):
        return source
    statement = f"from {module} import {', '.join(sorted(names))}"
    lines = source.split("\n")
    first = next((node for node in tests.body if not _must_lead(node)), None)
    if first is None:
        return "\n".join([*lines, statement])
    # Decorators come before the line that a definition is said to start on.
    decorators = getattr(first, "decorator_list", [])
    row = min([first.lineno, *(node.lineno for node in decorators)]) - 1
    return "\n".join([*lines[:row], statement, *lines[row:]])


def imported_names(tests: ast.AST, module: str) -> frozenset[str]:
    """The names by which the tests know the module and what they import from it."""
    return frozenset(
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tests)
        if _imports(node, module)
        for alias in node.names
    )


def without_import_of(source: str, module: str, names: Collection[str]) -> str:
    """The source without its own `from module import ...` lines, where `names` has all of them.

    Unchanged when the module is imported in any other way.
    """
    tree = parse(source)
    found = [node for node in tree.body if _imports(node, module)]
    if not all(isinstance(node, ast.ImportFrom) and _covered(node, names) for node in found):
        return source
    lines = source.split("\n")
    for node in reversed(found):
        del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n") + "\n"


def shortened(source: str, *, tests: int, assertions: int | None = None) -> str:
    """The source as it is if it is short enough, or else its first tests and assertions.

    A row written inside `parametrize(...)` counts as an assertion; a loop or `with` block with
    some counts as one.
    What is shortened is rewritten by `ast.unparse` (comments are lost) and keeps only the imports
    that it uses.

    Args:
        source: tests that parse.
        tests: how many tests (see `count_tests`) at most, >= 1.
        assertions: how many assertions at most, >= 1; None for all.
    """
    tree = parse(source)
    if assertions is None:
        if count_tests(tree) <= tests:
            return source
        assertions = len(source)
    tree.body = _Shortener(tests, assertions).kept(tree.body)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    tree.body = [node for node in tree.body if not _is_unused_import(node, used)]
    return ast.unparse(tree) + "\n"


def without_skips(source: str) -> str:
    """The tests with every `pytest.skip(...)` statement turned into a `return`.

    A test that skips counts as failed, because generated tests must not pass by skipping; the
    cases that reference tests skip are cases they don't test.
    """
    if "pytest.skip(" not in source:
        return source
    tree = _Unskip().visit(parse(source))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class _Unskip(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        match node.value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="pytest"), attr="skip")):
                return ast.Return(None)
            case _:
                return node


def contradicted(source: str) -> str:
    """The tests with every assertion turned into its opposite; empty if none could be turned."""
    tree = parse(source)
    turned = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            node.test = ast.UnaryOp(ast.Not(), node.test)
            turned += 1
        elif isinstance(node, ast.Attribute) and node.attr in _OPPOSITES:
            node.attr = _OPPOSITES[node.attr]
            turned += 1
    return ast.unparse(tree) + "\n" if turned else ""


class _Shortener:
    def __init__(self, tests: int, assertions: int) -> None:
        self._tests = tests
        self._assertions = assertions

    def kept(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """The statements of a module or class that remain."""
        return [node for node in body if self._keeps(node)]

    def _keeps(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.ClassDef) and any(map(_is_test, node.body)):
            node.body = self.kept(node.body)
            return any(map(_is_test, node.body))
        if _is_test(node):
            return self._room() and has_assertion(node) and self._shorten(node)
        if not isinstance(node, _Function | ast.ClassDef) and has_assertion(node):
            return self._room() and self._spend(1)
        return True

    def _room(self) -> bool:
        return self._tests > 0 and self._assertions > 0

    def _spend(self, assertions: int) -> bool:
        self._tests -= 1
        self._assertions -= assertions
        return True

    def _shorten(self, test: _Function) -> bool:
        rows = next(_parametrized(test), None)
        if rows is not None:
            del rows[self._assertions :]
            return self._spend(len(rows))
        body: list[ast.stmt] = []
        found = 0
        for statement in test.body:
            if found >= self._assertions:
                break
            body.append(statement)
            found += has_assertion(statement)
        test.body = body
        return self._spend(found)


def _parametrized(test: _Function) -> Iterator[list[ast.expr]]:
    for decorator in test.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Attribute(attr="parametrize"),
                args=[_, ast.List(elts=rows) | ast.Tuple(elts=rows), *_],
            ):
                yield rows
            case _:
                pass


def _is_test(node: ast.AST) -> TypeGuard[_Function]:
    return isinstance(node, _Function) and node.name.startswith("test")


def _imports(node: ast.AST, module: str) -> TypeGuard[ast.Import | ast.ImportFrom]:
    if isinstance(node, ast.ImportFrom):
        return node.module == module and not node.level
    return isinstance(node, ast.Import) and any(alias.name == module for alias in node.names)


def _covered(node: ast.ImportFrom, names: Collection[str]) -> bool:
    return all(
        alias.asname is None and (alias.name == "*" or alias.name in names) for alias in node.names
    )


def _must_lead(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_unused_import(node: ast.stmt, used: set[str]) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) and not any(
        alias.name == "*" or (alias.asname or alias.name).partition(".")[0] in used
        for alias in node.names
    )
