"""Runs inside the sandbox: calls functions on literal arguments and says what came of it.

This file's text is the code of a sandbox job; the trainer's process never runs it. It uses the
standard library only and returns plain lists, tuples, numbers and strings.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

MAX_LAZY = 40


class _Spent(BaseException):
    """The budget of executed lines is used up; not an Exception, so that it isn't swallowed."""


class _NotLiteral(Exception):  # noqa: N818 - a verdict, not an error
    """The value can't be written as a literal of exact builtin types."""


def literal(value: Any, depth: int = 0) -> str:
    """A literal that evaluates to the value: the same text whatever the hash seed."""
    kind = type(value)
    if depth > 8:
        raise _NotLiteral
    if value is None or kind in (bool, int, str, bytes):
        if kind is int and value.bit_length() > 4000:
            raise _NotLiteral
        return repr(value)
    if kind is float and math.isfinite(value):
        return repr(value)
    if kind in (list, tuple, set):
        parts = [literal(part, depth + 1) for part in value]
        if kind is list:
            return "[" + ", ".join(parts) + "]"
        if kind is tuple:
            return "(" + ", ".join(parts) + ("," if len(parts) == 1 else "") + ")"
        if parts:
            return "{" + ", ".join(sorted(parts)) + "}"
    if kind is dict:
        pairs = [f"{literal(k, depth + 1)}: {literal(v, depth + 1)}" for k, v in value.items()]
        return "{" + ", ".join(pairs) + "}"
    raise _NotLiteral


def observe(
    function: Callable[..., Any], text: str, max_text: int, budget: int
) -> tuple[str, str, bool, int]:
    """Call once.

    Returns:
        (verdict, text, lazy, lines): the verdict is `value` with the result as a literal,
        `raised` with the exception's name, or `printed`, `mutated`, `opaque`, `long`, `endless`,
        `spent`; lazy says that the result was an iterator, now exhausted into a list; lines is
        the number of source lines executed.
    """
    try:
        args, kwargs = eval(f"(lambda *a, **k: (a, k))({text})")
        before = literal([args, kwargs])
    except Exception:  # noqa: BLE001 - whatever it is, the arguments are of no use
        return "opaque", "", False, 0
    lines = 0

    def trace(_frame: types.FrameType, _event: str, _value: Any) -> Any:
        nonlocal lines
        lines += 1
        if lines > budget:
            raise _Spent
        return trace

    lazy, printed = False, io.StringIO()
    with contextlib.redirect_stdout(printed):
        sys.settrace(trace)
        try:
            value = function(*args, **kwargs)
            lazy = hasattr(value, "__next__")
            if lazy:
                value = list(itertools.islice(value, MAX_LAZY))
        except _Spent:
            return "spent", "", lazy, lines
        except BaseException as error:  # noqa: BLE001 - SystemExit is a result too
            return "raised", type(error).__name__, lazy, lines
        finally:
            sys.settrace(None)
    if printed.getvalue():
        return "printed", "", lazy, lines
    if lazy and len(value) == MAX_LAZY:
        return "endless", "", lazy, lines
    try:
        if literal([args, kwargs]) != before:
            return "mutated", "", lazy, lines
        result = literal(value)
    except _NotLiteral:
        return "opaque", "", lazy, lines
    if len(result) > max_text:
        return "long", "", lazy, lines
    return "value", result, lazy, lines


def run(
    sources: list[str], name: str, texts: list[str], max_text: int, budget: int
) -> list[list[tuple[str, str, bool, int]]]:
    """Load each source in a namespace of its own and call its `name` with every argument text.

    A source that can't be loaded, or doesn't define `name`, has an empty list. Every second
    source gets its calls in reverse order: a function that remembers earlier calls then disagrees
    with a second copy of itself.
    """
    warnings.simplefilter("ignore")
    tables: list[list[tuple[str, str, bool, int]]] = []
    for number, source in enumerate(sources):
        module = types.ModuleType("focal")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, "<focal>", "exec"), module.__dict__)
            function = module.__dict__[name]
        except BaseException:  # noqa: BLE001 - SystemExit at load: it doesn't load
            tables.append([])
            continue
        step = -1 if number % 2 else 1
        seen = [observe(function, text, max_text, budget) for text in texts[::step]]
        tables.append(seen[::step])
    return tables
