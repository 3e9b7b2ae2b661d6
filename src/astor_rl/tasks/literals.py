"""Python literals: reading them without running anything, and comparing values strictly.

`ast.literal_eval` with caps on size and nesting, plus the values whose `repr` it can't read:
`nan`, `inf`, `set()`, `frozenset(...)`, `range(...)` and keyword `dict(...)`.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from astor_rl.sandbox.api import Opaque
from astor_rl.tasks.parsing import parse_quietly

MAX_CHARS = 20_000
"""Longest literal that is read. Outputs in CRUXEval and the mined data stay below 300."""

MAX_DEPTH = 40
"""Deepest nesting that is read or compared."""

MAX_ELEMENTS = 2_000
"""Most elements that one text may hold, at all levels, those of its ranges that are spelled out
included. Bounds memory, and the time that elements of equal hash cost, which grows as the square.
"""


class LiteralError(ValueError):
    """Text that isn't a literal. Its message is a short reason, for a score."""


@contextmanager
def _refusing() -> Iterator[None]:
    """What reading a hostile text may overrun, as a refusal of that text.

    The caps below keep this from happening; should one have a gap, a training run shall not end
    for it.
    """
    try:
        yield
    except LiteralError:
        raise
    except (RecursionError, OverflowError, MemoryError, ValueError) as error:
        raise LiteralError(f"can't be read ({type(error).__name__})") from None


def parse_literal(text: str) -> Any:
    """The value of one Python literal.

    Accepted: numbers (signed, complex), strings, bytes, True, False, None, lists, tuples, sets,
    dicts, `nan`, `inf`, `float('nan')`, `float('inf')`, `float('-inf')`, `set()`, `list()`,
    `tuple()`, `dict()`, `set`, `frozenset`, `list` or `tuple` of one literal, `dict` of keyword
    literals, `range` of ints. Anything else, any other call above all, is refused, and so is what
    holds more than `MAX_ELEMENTS` elements in total.

    Raises:
        LiteralError: with the reason.
    """
    with _refusing():
        return _Reader().value(_expression(text.strip()), 0)


def literal_value(node: ast.expr) -> Any:
    """As `parse_literal`, for an expression that has been parsed.

    Raises:
        LiteralError: with the reason.
    """
    with _refusing():
        return _Reader().value(node, 0)


def parse_arguments(text: str) -> str:
    """Argument text of a call (`[1, 2], k=3`), checked to be literals only, normalised.

    `nan` and `inf` become `float('nan')` and `float('inf')`, which mean the same anywhere.

    Raises:
        LiteralError: an argument isn't a literal, or the text isn't an argument list.
    """
    with _refusing():
        call = parse_argument_list(text)
        reader = _Reader()
        for argument in call.args:
            if isinstance(argument, ast.Starred):
                raise LiteralError("unpacks an argument")
            reader.value(argument, 0)
        for keyword in call.keywords:
            if keyword.arg is None:
                raise LiteralError("unpacks an argument")
            reader.value(keyword.value, 0)
        return ast.unparse(_Spelled().visit(call))[len("_(") : -1]


class _Spelled(ast.NodeTransformer):
    """Spells the names that `repr` writes for floats without a literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """`nan` and `inf` as calls of `float`."""
        if node.id not in ("nan", "inf"):
            return node
        function = ast.Name("float", ast.Load())
        return ast.Call(func=function, args=[ast.Constant(node.id)], keywords=[])


def parse_argument_list(text: str) -> ast.Call:
    """Argument text as the call `_(text)`, whatever expressions it holds.

    Raises:
        LiteralError: the text isn't one argument list.
    """
    # The newline keeps a trailing comment from swallowing the closing bracket.
    call = _expression(f"_({text}\n)")
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_"):
        raise LiteralError("isn't an argument list")
    return call


def _expression(text: str) -> ast.expr:
    if len(text) > MAX_CHARS:
        raise LiteralError(f"longer than {MAX_CHARS} characters")
    try:
        return parse_quietly(text, "eval").body
    except SyntaxError:
        raise LiteralError("isn't a Python literal") from None


class _Reader:
    """Reads one text's literals, all of them on one budget of elements."""

    def __init__(self) -> None:
        self._left = MAX_ELEMENTS

    def _charge(self, elements: int) -> None:
        self._left -= elements
        if self._left < 0:
            raise LiteralError(f"more than {MAX_ELEMENTS} elements")

    def value(self, node: ast.expr, depth: int) -> Any:
        """The value of a literal nested `depth` deep.

        Raises:
            LiteralError: with the reason.
        """
        if depth > MAX_DEPTH:
            raise LiteralError(f"nested deeper than {MAX_DEPTH}")
        self._charge(1)
        deeper = depth + 1
        match node:
            case ast.Constant(value=value) if value is not ...:
                return value
            case ast.List(elts=items):
                return [self.value(item, deeper) for item in items]
            case ast.Tuple(elts=items):
                return tuple(self.value(item, deeper) for item in items)
            case ast.Set(elts=items):
                return _hashed(set, [self.value(item, deeper) for item in items])
            case ast.Dict():
                return self._dict(node, deeper)
            case ast.BinOp():
                return _complex(node)
            case ast.Name() | ast.UnaryOp():
                return _signed(node)
            case ast.Call():
                return self._construct(node, deeper)
            case _:
                raise LiteralError(f"isn't a literal ({type(node).__name__})")

    def _dict(self, node: ast.Dict, depth: int) -> Any:
        pairs = []
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise LiteralError("unpacks a dict")
            pairs.append((self.value(key, depth), self.value(value, depth)))
        return _hashed(dict, pairs)

    def _construct(self, node: ast.Call, depth: int) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if any(keyword.arg is None for keyword in node.keywords):
            raise LiteralError("unpacks an argument")
        if name == "dict" and not node.args:
            return {str(k.arg): self.value(k.value, depth) for k in node.keywords}
        if name in (*_SEQUENCES, "range", "float") and not node.keywords:
            values = [self.value(argument, depth) for argument in node.args]
            if name in _SEQUENCES and not values:
                return _SEQUENCES[name]()
            if name in _SEQUENCES and len(values) == 1:
                self._charge(_size(values[0]))
                return _hashed(_SEQUENCES[name], values[0])
            if name == "float" and len(values) == 1 and values[0] in ("nan", "inf", "-inf"):
                return float(values[0])
            if name == "range" and 1 <= len(values) <= 3 and all(type(v) is int for v in values):
                return _range(values)
        raise LiteralError(f"calls {name or 'something'}")


_SEQUENCES: dict[str, Callable[..., Any]] = {
    "set": set,
    "frozenset": frozenset,
    "list": list,
    "tuple": tuple,
}


def _hashed(build: Callable[[list[Any]], Any], items: list[Any]) -> Any:
    try:
        return build(items)
    except TypeError:
        raise LiteralError("has an unhashable key or element") from None


def _size(value: Any) -> int:
    """Elements of a value; 0 if it has none to speak of (what takes it then refuses it)."""
    if isinstance(value, range):  # whose `len` overflows beyond 2^63 - 1
        return (value[-1] - value[0]) // value.step + 1 if value else 0
    return len(value) if isinstance(value, Sized) else 0


def _complex(node: ast.BinOp) -> complex:
    """A signed real +- an imaginary: what `repr` writes for complex numbers, and no deeper."""
    match node:
        case ast.BinOp(op=ast.Add() | ast.Sub() as op, right=ast.Constant(value=complex() as part)):
            real = _signed(node.left)
            if isinstance(real, int | float):
                return real + part if isinstance(op, ast.Add) else real - part
        case _:
            pass
    raise LiteralError("isn't a literal (an operation)")


def _signed(node: ast.expr) -> Any:
    """A number, `nan` or `inf`, with at most one sign."""
    match node:
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_unsigned(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_unsigned(operand)
        case _:
            return _unsigned(node)


def _unsigned(node: ast.expr) -> Any:
    match node:
        case ast.Name(id="nan"):
            return math.nan
        case ast.Name(id="inf"):
            return math.inf
        case ast.Constant(value=value) if type(value) in (int, float, complex):
            return value
        case _:
            raise LiteralError("isn't a literal (an operation or a name)")


def _range(values: list[int]) -> range:
    try:
        return range(*values)
    except ValueError:
        raise LiteralError("isn't a range") from None


def strictly_equal(left: Any, right: Any) -> bool:
    """Whether two values print alike, up to the order of sets and dict entries.

    Types count at every level: `7`, `7.0` and `True` all differ, so do `[1]` and `(1,)`, `0.0` and
    `-0.0`. `nan` equals `nan`. Floats are equal when they are the same double. An `Opaque`, or
    nesting beyond `MAX_DEPTH`, equals nothing.
    """
    try:
        return bool(_canonical(left, 0) == _canonical(right, 0))
    except LiteralError:
        return False


def _canonical(value: Any, depth: int) -> Any:
    """A hashable form that is equal exactly when the values are strictly equal."""
    if depth > MAX_DEPTH:
        raise LiteralError("too deep")
    kind = type(value)
    name = kind.__name__
    if value is None or kind in (bool, int, str, bytes):
        return name, value
    if kind is float:
        return name, value.hex()
    if kind is complex:
        return name, value.real.hex(), value.imag.hex()
    if kind is range:
        return name, value.start, value.stop, value.step
    if kind in (list, tuple):
        return name, tuple(_canonical(item, depth + 1) for item in value)
    if kind in (set, frozenset):
        return name, _bag([_canonical(item, depth + 1) for item in value])
    if kind is dict:
        return name, _bag(
            [(_canonical(k, depth + 1), _canonical(v, depth + 1)) for k, v in value.items()]
        )
    raise LiteralError(f"a {name} can't be compared")


def _bag(items: list[Any]) -> frozenset[Any]:
    """A multiset: two different NaNs are two elements."""
    return frozenset(Counter(items).items())


def loosely_equal(left: Any, right: Any) -> bool:
    """Python's `==` between rebuilt builtins, as an `assert` has it; an `Opaque` equals nothing."""
    try:
        return is_plain(left) and is_plain(right) and bool(left == right)
    except RecursionError:
        return False


def is_plain(value: Any) -> bool:
    """Whether a value is builtins all through: no `Opaque` in it, no absurd nesting."""
    return not _has_opaque(value, 0)


def _has_opaque(value: Any, depth: int) -> bool:
    if depth > MAX_DEPTH:
        return True
    if isinstance(value, list | tuple | set | frozenset):
        return any(_has_opaque(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return any(_has_opaque(item, depth + 1) for pair in value.items() for item in pair)
    return isinstance(value, Opaque)


def to_source(value: Any) -> str:
    """Source that evaluates to the value where `NAMES` are defined.

    Raises:
        LiteralError: an `Opaque` is in it, it nests too deep, or an int has too many digits.
    """
    if not is_plain(value):
        raise LiteralError("a value that isn't a plain builtin")
    try:
        return repr(value)
    except ValueError:
        raise LiteralError("an int of too many digits") from None


def shown(value: Any, limit: int = 200) -> str:
    """The value for a person's eyes: its `repr`, cut to `limit` characters."""
    try:
        text = value.text if isinstance(value, Opaque) else repr(value)
    except ValueError:
        text = f"{type(value).__name__} with a number of too many digits"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


NAMES = "nan = float('nan'); inf = float('inf'); nanj = complex(0, nan); infj = complex(0, inf)\n"
"""Defines the names that `repr` writes for floats that have no literal."""
