"""What the laboratory's programs are made of: one line of Python and its wordings each.

In templates `{a}` is the list, `{x}` an item and `{c}` the operation's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["map", "keep", "order", "result"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a program can do.

    Attributes:
        name: of the operation, unique.
        kind: `map` and `keep` are parts of a comprehension, `order` is a line of its own, `result`
            is what is returned.
        code: template of the expression.
        wordings: templates of what it is called; a laboratory takes one.
        numbers: the values that `{c}` may have; empty for operations without a number.
    """

    name: str
    kind: Kind
    code: str
    wordings: tuple[str, ...]
    numbers: range = range(0)


OPERATIONS: tuple[Operation, ...] = (
    Operation("add", "map", "{x} + {c}", ("add {c}", "raise by {c}"), range(1, 10)),
    Operation("less", "map", "{x} - {c}", ("subtract {c}", "lower by {c}"), range(1, 10)),
    Operation("times", "map", "{x} * {c}", ("multiply by {c}", "scale by {c}"), range(2, 5)),
    Operation("from", "map", "{c} - {x}", ("take from {c}", "complement to {c}"), range(5, 15)),
    Operation("mod", "map", "{x} % {c}", ("remainder by {c}", "modulo {c}"), range(2, 8)),
    Operation("div", "map", "{x} // {c}", ("divide by {c}", "quotient by {c}"), range(2, 5)),
    Operation("square", "map", "{x} * {x}", ("square", "multiply by itself")),
    Operation("far", "map", "abs({x} - {c})", ("distance to {c}", "gap to {c}"), range(3, 12)),
    Operation("cap", "map", "min({x}, {c})", ("cap at {c}", "limit to {c}"), range(2, 12)),
    Operation("lift", "map", "max({x}, {c})", ("lift to {c}", "at least {c}"), range(2, 12)),
    Operation("above", "keep", "{x} > {c}", ("above {c}", "over {c}"), range(1, 10)),
    Operation("below", "keep", "{x} < {c}", ("below {c}", "under {c}"), range(3, 14)),
    Operation("even", "keep", "{x} % 2 == 0", ("even", "divisible by two")),
    Operation("odd", "keep", "{x} % 2 == 1", ("odd", "not divisible by two")),
    Operation("unlike", "keep", "{x} != {c}", ("other than {c}", "except {c}"), range(10)),
    Operation(
        "third", "keep", "{x} % 3 != {c}", ("not {c} by three", "three without {c}"), range(3)
    ),
    Operation("reverse", "order", "{a}[::-1]", ("reverse", "turn around")),
    Operation("sort", "order", "sorted({a})", ("sort", "order upwards")),
    Operation("skip", "order", "{a}[{c}:]", ("skip {c}", "drop the first {c}"), range(1, 4)),
    Operation("first", "order", "{a}[:{c}]", ("keep the first {c}", "take {c}"), range(1, 5)),
    Operation("cut", "order", "{a}[:-{c}]", ("cut {c}", "drop the last {c}"), range(1, 4)),
    Operation("append", "order", "{a} + [{c}]", ("append {c}", "put {c} last"), range(10)),
    Operation("lead", "order", "[{c}] + {a}", ("lead with {c}", "put {c} first"), range(10)),
    Operation("twice", "order", "{a} + {a}", ("repeat", "write twice")),
    Operation("distinct", "order", "sorted(set({a}))", ("distinct", "sort without repeats")),
    Operation("rotate", "order", "{a}[1:] + {a}[:1]", ("rotate", "move the head back")),
    Operation("every", "order", "{a}[::2]", ("every other", "one in two")),
    Operation("list", "result", "{a}", ("the list", "all")),
    Operation("sum", "result", "sum({a})", ("the sum", "the total")),
    Operation("len", "result", "len({a})", ("the count", "the length")),
    Operation(
        "max",
        "result",
        "max({a}, default={c})",
        ("the largest or {c}", "the most or {c}"),
        range(4),
    ),
    Operation(
        "min",
        "result",
        "min({a}, default={c})",
        ("the smallest or {c}", "the least or {c}"),
        range(4),
    ),
    Operation(
        "count", "result", "{a}.count({c})", ("how many are {c}", "the number of {c}"), range(10)
    ),
    Operation(
        "digit",
        "result",
        "sum({a}) % {c}",
        ("the sum modulo {c}", "the rest of the sum by {c}"),
        range(5, 11),
    ),
    Operation("kinds", "result", "len(set({a}))", ("how many differ", "the number of kinds")),
)
