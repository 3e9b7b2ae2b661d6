"""When are two pieces of Python the same? Identifier-blind hashes and token shingles.

Both are used to keep copies of one function on one side of a split, and copies of benchmark
items out of training data (the rule is in `data.decontaminate`).
"""

from __future__ import annotations

import ast
import builtins
import io
import itertools
import tokenize
from hashlib import blake2b

from astor_rl.code.normalize import (
    FunctionNode,
    clone,
    parse_source,
    strip_annotations,
    strip_docstrings,
)

SHINGLE_TOKENS = 12
"""Tokens in one shingle."""

_BUILTINS = frozenset(dir(builtins))
_SKIPPED = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)
_STARTERS = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)


def fingerprint(source: str) -> str | None:
    """Hash of a source's shape: equal for sources that differ in names and layout only.

    Variables, parameters, functions and classes are numbered in order of appearance; builtins,
    attributes, keyword arguments and literals keep their text. Docstrings, comments and
    annotations don't count. None when the source doesn't parse or is empty.
    """
    tree = parse_source(source)
    if tree is None or not tree.body:
        return None
    return _hash(_blind(tree))


def function_fingerprints(source: str, *, min_nodes: int = 0) -> dict[str, str]:
    """Fingerprint of every function definition in a source, methods and nested ones included.

    Args:
        source: Python source; one that doesn't parse has no functions.
        min_nodes: functions with fewer syntax nodes are left out: `return self.x` is the same
            everywhere and says nothing.

    Returns:
        name -> hash; of functions with the same name the last one counts.
    """
    tree = parse_source(source)
    if tree is None:
        return {}
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            shape = _blind(ast.Module(body=[node], type_ignores=[]))
            if sum(1 for _ in ast.walk(shape)) >= min_nodes:
                found[node.name] = _hash(shape)
    return found


def _hash(tree: ast.AST) -> str:
    return blake2b(ast.dump(tree).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _blind(tree: ast.Module) -> ast.Module:
    tree = clone(tree)
    strip_docstrings(tree)
    strip_annotations(tree)
    _drop_all_annotations(tree)
    _Numberer().visit(tree)
    return tree


def _drop_all_annotations(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, FunctionNode):
            node.returns = None


class _Numberer(ast.NodeVisitor):
    """Replaces identifiers by numbers, in place, in source order."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, f"_{len(self._numbers)}")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id not in _BUILTINS or node.id in self._numbers:
            node.id = self._number(node.id)

    def visit_arg(self, node: ast.arg) -> None:
        node.arg = self._number(node.arg)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        node.name = self._number(node.name)
        self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            node.name = self._number(node.name)
        self.generic_visit(node)

    def _scope(self, node: ast.Global | ast.Nonlocal) -> None:
        node.names = [self._number(name) for name in node.names]

    visit_Global = visit_Nonlocal = _scope


def code_tokens(source: str) -> list[str]:
    """The tokens of a source as written; comments, docstrings and layout are left out.

    Text that isn't Python (a diff, prose) is split at white space instead.
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return source.split()
    found: list[str] = []
    statement_starts = True
    for token, following in itertools.pairwise(tokens):
        if token.type in _SKIPPED:
            statement_starts |= token.type in _STARTERS
            continue
        # A string that is a whole statement is a docstring.
        alone = statement_starts and following.type in (tokenize.NEWLINE, tokenize.ENDMARKER)
        if not (alone and token.type == tokenize.STRING):
            found.append(token.string)
        statement_starts = False
    return found
