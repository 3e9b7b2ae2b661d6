"""Syntax trees in one style: no docstrings, only plain annotations."""

from __future__ import annotations

import ast
from typing import TypeVar, cast

from astor_rl.syntax import parse

_PLAIN = frozenset(
    {"int", "float", "str", "bool", "bytes", "list", "dict", "tuple", "set", "object", "None"}
)

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_Node = TypeVar("_Node", bound=ast.AST)


def parse_source(source: str) -> ast.Module | None:
    """The tree of a source, or None when it isn't Python (of this version) or is too deep."""
    try:
        return parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def clone(node: _Node) -> _Node:
    """A copy of a node that can be changed: several times faster than `copy.deepcopy`."""
    return cast("_Node", _clone(node))


def _clone(value: object) -> object:
    if isinstance(value, ast.AST):
        fresh = type(value)(**{name: _clone(part) for name, part in ast.iter_fields(value)})
        return ast.copy_location(fresh, value)
    if isinstance(value, list):
        return [_clone(part) for part in value]
    return value


def docstring_of(node: Documented) -> str:
    """The cleaned docstring, empty when there is none."""
    return ast.get_docstring(node) or ""


def strip_docstrings(tree: ast.AST) -> None:
    """Remove docstrings everywhere below `tree`, in place; an emptied body becomes `pass`."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.Pass())


def strip_annotations(tree: ast.AST) -> None:
    """Remove, in place, annotations that name anything but plain builtin types.

    What is left needs no import. An annotated assignment becomes a plain one; one without a
    value becomes `pass` (its name stays local only if something else binds it).
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and not _is_plain(node.annotation):
            node.annotation = None
        elif isinstance(node, FunctionNode) and not _is_plain(node.returns):
            node.returns = None
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, name, [_without_annotation(child) for child in value])


def _without_annotation(child: object) -> object:
    if not isinstance(child, ast.AnnAssign):
        return child
    if child.value is None:
        return ast.copy_location(ast.Pass(), child)
    plain = ast.Assign(targets=[child.target], value=child.value)
    return ast.copy_location(plain, child)


def _is_plain(annotation: ast.expr | None) -> bool:
    if annotation is None:
        return True
    allowed = (ast.Name, ast.Subscript, ast.Tuple, ast.Constant, ast.BinOp, ast.BitOr, ast.Load)
    return all(
        isinstance(node, allowed)
        and (not isinstance(node, ast.Name) or node.id in _PLAIN)
        and (not isinstance(node, ast.Constant) or node.value is None or node.value is Ellipsis)
        for node in ast.walk(annotation)
    )
