"""Python source to trees, from any thread."""

from __future__ import annotations

import ast
from contextlib import suppress
from threading import RLock
from typing import Literal, overload

_ATTEMPTS = 8
_lock = RLock()
"""Reentrant: what the garbage collector finalises in the middle of a parse may parse, too."""


@overload
def parse(source: str, mode: Literal["exec"] = "exec") -> ast.Module: ...


@overload
def parse(source: str, mode: Literal["eval"]) -> ast.Expression: ...


def parse(source: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """`ast.parse`, one thread at a time.

    Before 3.11.8, CPython counts the depth of the tree that it makes in one place for all threads
    (python/cpython#106905): a switch in between ends in "AST constructor recursion depth mismatch",
    a `SystemError`. Others than this package may parse meanwhile, so it tries again.

    Raises:
        SyntaxError, ValueError, MemoryError, RecursionError: as `ast.parse` does.
    """
    with _lock:
        for _ in range(_ATTEMPTS - 1):
            with suppress(SystemError):
                return ast.parse(source, mode=mode)
        return ast.parse(source, mode=mode)
