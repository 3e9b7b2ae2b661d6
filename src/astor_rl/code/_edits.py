"""Where a piece of Python can be changed, and to what: the operators behind `mutants`."""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

OPERATORS: dict[str, str] = {
    "compare": "a comparison's operator replaced (`<` by `<=`, `==` by `!=`, `in` by `not in`)",
    "arith": "an arithmetic or bit operator replaced (`+` by `-`, `*` by `//`)",
    "const_int": "an integer moved by one",
    "const_float": "a float moved by one",
    "const_str": "a string emptied, or an empty one filled",
    "const_bool": "True and False exchanged",
    "negate": "a condition negated",
    "boolop": "`and` and `or` exchanged",
    "unary": "a `not` or a minus sign dropped",
    "return_none": "a returned value replaced by None",
    "remove_statement": "a statement removed (a call, an update, a raise)",
    "break_continue": "break and continue exchanged",
    "slice": "a slice's bound moved by one",
    "range": "the end of a range moved by one",
    "swap_args": "a call's first two arguments exchanged",
    "call": "a function replaced by its opposite (`min` by `max`, `any` by `all`)",
}
"""Every operator by name, with one line for people."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace bytes `start` to `end` of the UTF-8 source by `text`."""

    op: str
    start: int
    end: int
    text: str


class SourceText:
    """A source with newlines normalised, addressed as `ast` does: by line and UTF-8 offset."""

    def __init__(self, source: str) -> None:
        self.source = source.replace("\r\n", "\n").replace("\r", "\n")
        self._bytes = self.source.encode("utf-8", "surrogatepass")
        self._starts = [0]
        for line in self._bytes.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def start(self, node: ast.expr | ast.stmt) -> int:
        """Byte offset where the node starts."""
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Byte offset just after the node."""
        assert node.end_lineno is not None  # set on every node that came from a parser
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, start: int, end: int) -> str:
        """The characters between two byte offsets."""
        return self._bytes[start:end].decode("utf-8", "surrogatepass")

    def slice(self, edit: Edit) -> str:
        """What an edit would replace."""
        return self.text(edit.start, edit.end)

    def of(self, node: ast.expr | ast.stmt) -> str:
        """The node's own characters."""
        return self.text(self.start(node), self.end(node))

    def apply(self, edit: Edit) -> str:
        """The source with one edit made."""
        return self.text(0, edit.start) + edit.text + self.text(edit.end, len(self._bytes))

    def line_of(self, offset: int) -> int:
        """1-based line of a byte offset."""
        return bisect.bisect_right(self._starts, offset)


def edits(roots: Iterable[ast.stmt], text: SourceText) -> Iterator[Edit]:
    """Every edit of every operator in the given statements; some may not parse or not differ."""
    for root in roots:
        for node in _behaviour(root):
            for visit in _VISITS.get(type(node), ()):
                yield from visit(node, text)


def _behaviour(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes whose change can change behaviour: no annotations, docstrings, f-string parts."""
    if isinstance(node, ast.JoinedStr) or _is_main_block(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns"}:
            continue
        children = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST) and not _is_bare_string(child):
                yield from _behaviour(child)


def _is_main_block(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and isinstance(node.test.left, ast.Name)
        and node.test.left.id == "__name__"
    )


def _is_bare_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


_COMPARE = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
}
_ARITH = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"),
    ast.MatMult: ("@", "*"),
}
_OPPOSITES = {
    "min": "max",
    "any": "all",
    "lower": "upper",
    "islower": "isupper",
    "startswith": "endswith",
    "lstrip": "rstrip",
    "find": "rfind",
    "floor": "ceil",
    "popleft": "pop",
    "appendleft": "append",
    "add": "discard",
}
_OPPOSITES |= {
    after: before for before, after in _OPPOSITES.items() if after not in {"pop", "append"}
}
# Before an operator between two operands only these can stand.
_LEAD = r"^((?:[\s\\)]|\#[^\n]*\n)*)"


def _operator_edit(
    op: str, text: SourceText, left: ast.expr, right: ast.expr, pattern: str, new: str
) -> Iterator[Edit]:
    """Replace the operator token between two operands."""
    start = text.end(left)
    match = re.match(_LEAD + f"({pattern})", text.text(start, text.start(right)))
    if match:
        begin = start + len(match[1].encode())
        yield Edit(op, begin, begin + len(match[2].encode()), new)


def _compare(node: ast.Compare, text: SourceText) -> Iterator[Edit]:
    operands = [node.left, *node.comparators]
    for op, left, right in zip(node.ops, operands, operands[1:], strict=False):
        pattern, new = _COMPARE[type(op)]
        yield from _operator_edit("compare", text, left, right, pattern, new)


def _binop(node: ast.BinOp, text: SourceText) -> Iterator[Edit]:
    symbol, new = _ARITH[type(node.op)]
    yield from _operator_edit("arith", text, node.left, node.right, re.escape(symbol), new)


def _augmented(node: ast.AugAssign, text: SourceText) -> Iterator[Edit]:
    symbol, new = _ARITH[type(node.op)]
    pattern = re.escape(symbol + "=")
    yield from _operator_edit("arith", text, node.target, node.value, pattern, new + "=")
    yield Edit("remove_statement", text.start(node), text.end(node), "pass")


def _boolop(node: ast.BoolOp, text: SourceText) -> Iterator[Edit]:
    symbol, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
    for left, right in zip(node.values, node.values[1:], strict=False):
        yield from _operator_edit("boolop", text, left, right, symbol, new)


def _constant(node: ast.Constant, text: SourceText) -> Iterator[Edit]:
    start, end, value = text.start(node), text.end(node), node.value
    if isinstance(value, bool):
        yield Edit("const_bool", start, end, str(not value))
    elif isinstance(value, int):
        yield Edit("const_int", start, end, str(value + 1))
        if value > 1:
            yield Edit("const_int", start, end, str(value - 1))
    elif isinstance(value, float):
        yield Edit("const_float", start, end, repr(value + 1.0))
    elif isinstance(value, str):
        yield Edit("const_str", start, end, '""' if value else '"x"')


def _condition(test: ast.expr, text: SourceText) -> Iterator[Edit]:
    # `not` is dropped by `unary`; `==`, `in` and `is` are negated by `compare`.
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        if isinstance(test.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn | ast.Is | ast.IsNot):
            return
    elif isinstance(test, ast.Constant):
        return
    yield Edit("negate", text.start(test), text.end(test), f"not ({text.of(test)})")


def _tested(node: ast.If | ast.While | ast.IfExp, text: SourceText) -> Iterator[Edit]:
    yield from _condition(node.test, text)


def _filtered(node: ast.comprehension, text: SourceText) -> Iterator[Edit]:
    for test in node.ifs:
        yield from _condition(test, text)


def _unary(node: ast.UnaryOp, text: SourceText) -> Iterator[Edit]:
    start = text.start(node)
    match = re.match(r"not\b\s*|-\s*", text.text(start, text.start(node.operand)))
    if match:
        yield Edit("unary", start, start + len(match[0].encode()), "")


def _returned(node: ast.Return, text: SourceText) -> Iterator[Edit]:
    if node.value is not None:
        yield Edit("return_none", text.start(node), text.end(node), "return None")


def _removed(node: ast.stmt, text: SourceText) -> Iterator[Edit]:
    yield Edit("remove_statement", text.start(node), text.end(node), "pass")


def _expression(node: ast.Expr, text: SourceText) -> Iterator[Edit]:
    if isinstance(node.value, ast.Call | ast.Await):
        yield from _removed(node, text)


def _assigned(node: ast.Assign, text: SourceText) -> Iterator[Edit]:
    # Removing the binding of a plain name only makes a NameError.
    if all(isinstance(target, ast.Subscript | ast.Attribute) for target in node.targets):
        yield from _removed(node, text)


def _jump(node: ast.Break | ast.Continue, text: SourceText) -> Iterator[Edit]:
    new = "continue" if isinstance(node, ast.Break) else "break"
    yield Edit("break_continue", text.start(node), text.end(node), new)


def _moved(op: str, node: ast.expr, text: SourceText) -> Iterator[Edit]:
    """The expression plus and minus one; constants are left to `const_int`."""
    if isinstance(node, ast.Constant) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)
    ):
        return
    tight = isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    whole = text.of(node) if tight else f"({text.of(node)})"
    for shift in (" + 1", " - 1"):
        yield Edit(op, text.start(node), text.end(node), whole + shift)


def _slice(node: ast.Slice, text: SourceText) -> Iterator[Edit]:
    for bound in (node.lower, node.upper):
        if bound is not None:
            yield from _moved("slice", bound, text)


def _call(node: ast.Call, text: SourceText) -> Iterator[Edit]:
    name = ""
    if isinstance(node.func, ast.Name):
        name = node.func.id
    elif isinstance(node.func, ast.Attribute):
        name = node.func.attr
    if name in _OPPOSITES:
        end = text.end(node.func)
        yield Edit("call", end - len(name.encode()), end, _OPPOSITES[name])
    if name == "range" and node.args and not isinstance(node.args[-1], ast.Starred):
        yield from _moved("range", node.args[min(1, len(node.args) - 1)], text)
    if len(node.args) >= 2 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
        first, second = node.args[:2]
        between = text.text(text.end(first), text.start(second))
        # Parentheses around an argument are not part of its node.
        if "(" not in between and ")" not in between:
            swapped = text.of(second) + between + text.of(first)
            yield Edit("swap_args", text.start(first), text.end(second), swapped)


_VISITS: dict[type[ast.AST], tuple[Callable[..., Iterator[Edit]], ...]] = {
    ast.Compare: (_compare,),
    ast.BinOp: (_binop,),
    ast.AugAssign: (_augmented,),
    ast.BoolOp: (_boolop,),
    ast.Constant: (_constant,),
    ast.If: (_tested,),
    ast.While: (_tested,),
    ast.IfExp: (_tested,),
    ast.comprehension: (_filtered,),
    ast.UnaryOp: (_unary,),
    ast.Return: (_returned,),
    ast.Expr: (_expression,),
    ast.Assign: (_assigned,),
    ast.Raise: (_removed,),
    ast.Delete: (_removed,),
    ast.Break: (_jump,),
    ast.Continue: (_jump,),
    ast.Slice: (_slice,),
    ast.Call: (_call,),
}
