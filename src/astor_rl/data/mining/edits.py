"""Small changes to real functions, as a person would commit them: the nouns and the registry.

An operator takes a function and makes one change of one kind. What it claims about behaviour is
checked by execution before a row is made of it (`commit_rows`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from astor_rl.code.slicing import FunctionSlice
from astor_rl.data.mining.functions import Call
from astor_rl.syntax import parse

Claim = Literal["same", "differs", "loads"]
"""`same`: both versions return the same on every call that is tried. `differs`: some call tells
them apart. `loads`: both can be loaded, nothing more is claimed."""


@dataclass(frozen=True, slots=True)
class Material:
    """What an operator works on.

    Attributes:
        part: the function; `part.function` is its source.
        calls: verified calls of it.
        rng: decides between places and names.
    """

    part: FunctionSlice
    calls: tuple[Call, ...]
    rng: np.random.Generator

    @property
    def node(self) -> ast.FunctionDef:
        """A fresh tree of the function, free to change."""
        return self.part.node

    def choose(self, options: list[str]) -> str:
        """One of them."""
        return options[int(self.rng.integers(len(options)))]


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        before, after: sources of the function (and what was put before it).
        slots: words for the subject line, by the names its phrasings use; `function` is added.
    """

    before: str
    after: str
    slots: dict[str, str] = field(default_factory=dict)


Operator = Callable[[Material], Change | None]


def written(node: ast.AST) -> str:
    """The source of a tree that was changed."""
    return ast.unparse(ast.fix_missing_locations(node))


def parsed(source: str) -> list[ast.stmt]:
    """The statements of a piece of source."""
    return parse(source).body


def expression(source: str) -> ast.expr:
    """The tree of an expression."""
    return parse(source, mode="eval").body


def names_in(node: ast.AST) -> set[str]:
    """Every identifier that is read, bound or passed by keyword below a node."""
    found = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    found |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
    return found | {w.arg for w in ast.walk(node) if isinstance(w, ast.keyword) and w.arg}


def parameters_of(node: ast.FunctionDef) -> list[str]:
    """Names of the positional parameters."""
    return [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]


def blocks(node: ast.AST) -> list[list[ast.stmt]]:
    """Every list of statements below a node, its own first."""
    found = []
    for part in ast.walk(node):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(part, name, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                found.append(block)
    return found
