"""What the correct code answers to plain tests, asked in one short job before the long one.

Most tests that a model writes are wrong, and running them costs several processes each. Where a
test is nothing but `assert f(literals) == literal`, whether it holds takes a call: the one
that the tests would make first, in a fresh process as theirs. Only what is plainly refuted counts.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from astor_rl.sandbox.api import CallResult
from astor_rl.syntax import parse
from astor_rl.tasks.checks import SplitCheck, split_tests
from astor_rl.tasks.literals import LiteralError, is_plain, parse_arguments, shown
from astor_rl.tasks.parsing import MAX_CODE_CHARS, parse_python

_MOST = 200
"""Checks; taking more apart would hold up the event loop for longer than it may save."""
_IMPORTS = (ast.Import, ast.ImportFrom)
_SCARCE = {"MemoryError", "RecursionError"}
"""Exceptions that depend on how much else the process holds, or how deep the call began."""
_LOADED_AS = "solution"
"""What a `CallJob` names the code's module: a value that tells it is another one in the tests."""


@dataclass(frozen=True, slots=True)
class PlainTests:
    """Tests that only compare calls on literals with literals.

    Attributes:
        names: of the test that each check belongs to.
        checks: in the order in which the tests evaluate them.
    """

    names: tuple[str, ...]
    checks: tuple[SplitCheck, ...]

    @property
    def calls(self) -> tuple[str, ...]:
        """What they call, in their order."""
        return tuple(check.calls[0] for check in self.checks)

    def refuted(self, results: tuple[CallResult, ...]) -> str:
        """Why the tests fail on code that gives these results; empty unless that is certain.

        A value that isn't built of plain builtins may equal anything.
        """
        for name, check, result in zip(self.names, self.checks, results, strict=False):
            if result.kind == "raised" and result.error not in _SCARCE:
                return f"{name}: {result.error}: {result.message}"[:200]
            certain = result.kind == "value" and _is_certain(result.value)
            if certain and not check.holds(result.value):
                return f"{name}: AssertionError: {check.text}"[:200]
        return ""


def _is_certain(value: Any) -> bool:
    return is_plain(value) and _LOADED_AS not in shown(value, limit=MAX_CODE_CHARS)


def plain_tests(tests: str, module: str, entry_point: str) -> PlainTests | None:
    """The tests taken apart, or None if anything in them is more than plain.

    Args:
        tests: their source, as it is run.
        module: import name of the code under test; nothing else may be imported.
        entry_point: the only function that may be called.
    """
    tree = parse_python(tests)
    if tree is None or not entry_point:
        return None
    names: list[str] = []
    checks: list[SplitCheck] = []
    for node in tree.body:
        if isinstance(node, _IMPORTS):
            if not _imports_only(node, module):
                return None
            continue
        body = _plain_body(node)
        found = _checks(body, entry_point) if body else None
        # One that is defined again is never run, or is no longer what is called.
        if found is None or getattr(node, "name", "") in {entry_point, *names}:
            return None
        if len(checks) + len(found) > _MOST:
            return None
        names += [getattr(node, "name", "")] * len(found)
        checks += found
    return PlainTests(tuple(names), tuple(checks)) if checks else None


def _imports_only(node: ast.Import | ast.ImportFrom, module: str) -> bool:
    """`from module import name`, under no other name."""
    return (
        isinstance(node, ast.ImportFrom)
        and node.module == module
        and not node.level
        and all(alias.asname is None for alias in node.names)
    )


def _plain_body(node: ast.stmt) -> list[ast.stmt]:
    """The statements of a test function that is nothing but a name and them, else none."""
    if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
        return []
    arguments = node.args
    takes = [*arguments.args, *arguments.posonlyargs, *arguments.kwonlyargs]
    if takes or arguments.vararg or arguments.kwarg or node.decorator_list:
        return []
    # An annotation is evaluated, and may be anything.
    if node.returns is not None and not isinstance(node.returns, ast.Constant):
        return []
    return node.body


def _checks(body: list[ast.stmt], entry_point: str) -> list[SplitCheck] | None:
    if not all(isinstance(node, ast.Assert) and node.msg is None for node in body):
        return None
    # The code may define a `set` or an `inf` of its own, and the tests import it.
    used = (node.id for one in body for node in ast.walk(one) if isinstance(node, ast.Name))
    if any(name != entry_point for name in used):
        return None
    try:
        source = ast.unparse(ast.Module(body=body, type_ignores=[]))
        checks = split_tests([source], entry_point)
        found = [check for check in checks if isinstance(check, SplitCheck) and _is_plain(check)]
    except (ValueError, RecursionError):  # no assert, too deep, or an int of too many digits
        return None
    return found if len(found) == len(body) else None


def _is_plain(check: SplitCheck) -> bool:
    """`f(literals) == literal`."""
    if check.relation != "==" or len(check.calls) != 1:
        return False
    call = parse(check.calls[0], mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return False
    arguments = [*map(ast.unparse, call.args)]
    arguments += [f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in call.keywords]
    try:
        parse_arguments(", ".join(arguments))
    except LiteralError:
        return False
    return True
