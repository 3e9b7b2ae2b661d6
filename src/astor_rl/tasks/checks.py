"""Tests taken apart, so that expected values never enter the process that runs a solution.

`assert f([1]) == 2` becomes a call, `f([1])`, for the solution's process, and a verdict, `_0 == 2`,
for ours. A test that can't be cut that way (a `check(candidate)` with loops and random inputs) is
*replayed*: recorded against the reference to learn its calls, then run once more, in a process
that never loads the solution, against the values that the solution gave for those calls.

What this can't express, and `validate` finds: a test that looks at an argument after the call
(in-place sorting), or whose later calls depend on earlier results.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from astor_rl.tasks.literals import LiteralError, is_plain, literal_value, loosely_equal
from astor_rl.tasks.parsing import parse_quietly

Relation = Literal["==", "!=", "is", "is not", "true", "false", "judge"]

_CONSUMERS = frozenset({"list", "tuple", "set", "frozenset", "sorted", "dict", "sum"})
"""Builtins that may wrap a call in the solution's process: what they consume (an iterator, a
generator) can't cross. A solution that shadows one gains nothing, for it knows no answer."""


class TestShapeError(ValueError):
    """A test that never calls the entry point, or isn't Python. Its message is the reason."""

    __test__ = False


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """One assert.

    Attributes:
        text: the assert, for people.
        calls: expressions to evaluate in the solution's process.
        relation: how the value of the only call relates to `expected`; `judge` when the verdict
            is `verdict`, an expression over `_0`, `_1`, ..., to be evaluated in a process that
            never loads the solution.
        expected: the right side, a plain value.
        verdict: source of the assert with its calls replaced by `_0`, `_1`, ...
    """

    text: str
    calls: tuple[str, ...]
    relation: Relation
    expected: Any
    verdict: str

    def holds(self, value: Any) -> bool:
        """The verdict on the call's value, by the assert's own rule; not for `judge`."""
        match self.relation:
            case "==":
                return loosely_equal(value, self.expected)
            case "!=":
                # Something that can't cross is no evidence of anything.
                return is_plain(value) and not loosely_equal(value, self.expected)
            case "is":
                return value is self.expected
            case "is not":
                return is_plain(value) and value is not self.expected
            case "true":
                return is_plain(value) and bool(value)
            case "false":
                return is_plain(value) and not value
            case "judge":
                raise ValueError("a judge's verdict isn't ours to give")


@dataclass(frozen=True, slots=True)
class ReplayCheck:
    """A test function to be recorded and replayed.

    Attributes:
        text: one line for people.
        source: defines `check(candidate)`.
    """

    text: str
    source: str


Check = SplitCheck | ReplayCheck


def split_tests(tests: Sequence[str], entry_point: str) -> tuple[Check, ...]:
    """The checks of a row's tests, in order; asserts of a constant are dropped.

    Each test is source: asserts, or a HumanEval-style module that defines `check(candidate)`.

    Raises:
        TestShapeError: a test isn't Python or never calls the entry point, or none is left.
    """
    checks: list[Check] = []
    for test in tests:
        try:
            module = parse_quietly(test)
        except SyntaxError as error:
            raise TestShapeError(f"isn't Python ({error.msg})") from None
        checks += _module_checks(module, entry_point)
    if not checks:
        raise TestShapeError("hold no assert")
    return tuple(checks)


def _module_checks(module: ast.Module, entry_point: str) -> list[Check]:
    check = next(
        (n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None
    )
    if check is None:
        names, body = {entry_point}, module.body
    else:
        names = {entry_point, check.args.args[0].arg if check.args.args else ""}
        body = check.body
        if any(not _is_furniture(node, check) for node in module.body):
            return [ReplayCheck(f"check({entry_point})", ast.unparse(_without_call(module)))]
    try:
        found = [_split(node, names, entry_point) for node in body if not _is_inert(node)]
    except _NotSplitError:
        if check is None:
            return [_wrapped(module.body, entry_point)]
        return [ReplayCheck(f"check({entry_point})", ast.unparse(_without_call(module)))]
    return [one for one in found if one is not None]


def _is_furniture(node: ast.stmt, check: ast.FunctionDef) -> bool:
    """The parts of a HumanEval test module that mean nothing: METADATA and the final call."""
    return node is check or _is_inert(node) or _is_check_call(node) or isinstance(node, ast.Assign)


def _is_check_call(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "check"
    )


def _is_inert(node: ast.stmt) -> bool:
    """A docstring, a stray name such as `print`, or `pass`."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Name)
    )


def _without_call(module: ast.Module) -> ast.Module:
    body = [node for node in module.body if not _is_check_call(node)]
    return ast.Module(body=body, type_ignores=[])


def _wrapped(body: list[ast.stmt], entry_point: str) -> ReplayCheck:
    """Loose statements as a `check` function whose parameter shadows the entry point."""
    if not any(isinstance(n, ast.Name) and n.id == entry_point for s in body for n in ast.walk(s)):
        raise TestShapeError(f"never call {entry_point!r}")
    check = parse_quietly(f"def check({entry_point}): pass")
    function = check.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = body
    return ReplayCheck(ast.unparse(body[-1]), ast.unparse(check))


class _NotSplitError(Exception):
    """A statement that has to be replayed."""


def _split(node: ast.stmt, names: set[str], entry_point: str) -> SplitCheck | None:
    if not isinstance(node, ast.Assert):
        raise _NotSplitError
    if isinstance(node.test, ast.Constant):
        return None
    cutter = _Cutter(names, entry_point)
    text = "assert " + ast.unparse(_Renamer(names, entry_point).visit(_copy(node.test)))
    verdict = cutter.visit(_copy(node.test))
    if not cutter.calls:
        if any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(verdict)):
            raise _NotSplitError
        raise TestShapeError(f"never call {entry_point!r}: {text:.80}")
    if any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(verdict)):
        raise _NotSplitError
    relation, expected = _relation(verdict, len(cutter.calls))
    return SplitCheck(text, tuple(cutter.calls), relation, expected, ast.unparse(verdict))


def _copy(node: ast.expr) -> ast.expr:
    return parse_quietly(ast.unparse(node), "eval").body


class _Renamer(ast.NodeTransformer):
    """`candidate` becomes the entry point's name."""

    def __init__(self, names: set[str], entry_point: str) -> None:
        self._names = names
        self._entry_point = entry_point

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Rename."""
        return ast.Name(self._entry_point, node.ctx) if node.id in self._names else node


class _Cutter(ast.NodeTransformer):
    """Replaces calls of the entry point by `_0`, `_1`, ... and collects them."""

    def __init__(self, names: set[str], entry_point: str) -> None:
        self.calls: list[str] = []
        self._names = names
        self._renamer = _Renamer(names, entry_point)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Cut the call, or the builtin around it that consumes its result."""
        if self._is_entry(node) or self._is_consumer(node):
            self.calls.append(ast.unparse(self._renamer.visit(node)))
            return ast.Name(f"_{len(self.calls) - 1}", ast.Load())
        return self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Code that runs with names of its own can only be replayed."""
        return self._bound(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_Lambda  # type: ignore[assignment]
    visit_NamedExpr = visit_Lambda  # type: ignore[assignment]

    def _bound(self, node: ast.AST) -> ast.AST:
        if any(isinstance(n, ast.Name) and n.id in self._names for n in ast.walk(node)):
            raise _NotSplitError
        return node

    def _is_entry(self, node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in self._names
        )

    def _is_consumer(self, node: ast.Call) -> bool:
        return (
            isinstance(node.func, ast.Name)
            and node.func.id in _CONSUMERS
            and len(node.args) == 1
            and not node.keywords
            and self._is_entry(node.args[0])
        )


def _relation(verdict: ast.AST, calls: int) -> tuple[Relation, Any]:
    """The verdict as a relation to a plain value, where it is as simple as that."""
    if calls != 1:
        return "judge", None
    match verdict:
        case ast.Name():
            return "true", None
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id="_0")):
            return "false", None
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            sides = (left, right) if isinstance(left, ast.Name) else (right, left)
            if isinstance(sides[0], ast.Name) and sides[0].id == "_0":
                return _comparison(op, sides[1])
        case _:
            pass
    return "judge", None


def _comparison(op: ast.cmpop, side: ast.expr) -> tuple[Relation, Any]:
    try:
        expected = literal_value(side)
    except LiteralError:
        return "judge", None
    match op:
        case ast.Eq():
            return "==", expected
        case ast.NotEq():
            return "!=", expected
        case ast.Is() | ast.IsNot() if expected is None or isinstance(expected, bool):
            return ("is" if isinstance(op, ast.Is) else "is not"), expected
        case _:
            return "judge", None
