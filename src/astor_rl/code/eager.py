"""Turn a function that makes an iterator into one that returns a list."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from astor_rl.code.normalize import clone, parse_source

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_ACCUMULATORS = ("result", "items", "out", "collected")


def make_eager(function: str) -> str | None:
    """The source of one function, rewritten to return the list of what it would have yielded.

    A generator's `yield` statements become appends to a list; a function that returns an
    iterator returns `list(...)` of it. Whether the result is equivalent is for the caller to
    check by running both (an endless iterator isn't).

    Returns:
        The new source, or None when a `yield` is used as a value or the source isn't one function.
    """
    tree = parse_source(function)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return None
    node = clone(tree.body[0])
    node.returns = None
    yields = [p for p in _own(node) if isinstance(p, ast.Yield | ast.YieldFrom | ast.Await)]
    if not yields:
        for part in _own(node):
            if isinstance(part, ast.Return) and part.value is not None:
                part.value = _call("list", part.value)
        return _written(node)
    statements = [p for p in _own(node) if isinstance(p, ast.Expr)]
    if len([s for s in statements if s.value in yields]) != len(yields):
        return None
    used = {p.id for p in ast.walk(node) if isinstance(p, ast.Name)}
    used |= {arg.arg for arg in ast.walk(node) if isinstance(arg, ast.arg)}
    name = next((n for n in _ACCUMULATORS if n not in used), None)
    if name is None:
        return None
    _collect(node, name)
    first = ast.Assign([ast.Name(name, ast.Store())], ast.List([], ast.Load()))
    node.body = [first, *node.body]
    if not isinstance(node.body[-1], ast.Return):
        node.body.append(ast.Return(ast.Name(name, ast.Load())))
    return _written(node)


def _collect(node: ast.FunctionDef, name: str) -> None:
    """Turn yields into appends to the list `name`, and returns into returns of it, in place."""
    for part in _own(node):
        if isinstance(part, ast.Return):
            part.value = ast.Name(name, ast.Load())
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Yield):
            part.value = _call("append", part.value.value or ast.Constant(None), of=name)
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.YieldFrom):
            part.value = _call("extend", part.value.value, of=name)


def _own(node: ast.FunctionDef) -> Iterator[ast.AST]:
    """Nodes of the function itself, those of functions inside it left out."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        part = waiting.pop()
        yield part
        if not isinstance(part, _SCOPES):
            waiting.extend(ast.iter_child_nodes(part))


def _call(function: str, argument: ast.expr, *, of: str = "") -> ast.Call:
    plain: ast.expr = ast.Name(function, ast.Load())
    if of:
        plain = ast.Attribute(ast.Name(of, ast.Load()), function, ast.Load())
    return ast.Call(plain, [argument], [])


def _written(node: ast.FunctionDef) -> str:
    return ast.unparse(ast.fix_missing_locations(node))
