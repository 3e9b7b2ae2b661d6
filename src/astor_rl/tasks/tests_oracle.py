"""Do written tests check anything that the code under test computes, and by knowledge of their own?

Both questions are answered from the source alone, approximately and in the tests' favour: what is
refused here is worth nothing for certain, what passes still has to kill mutants. Nothing here
recurses or takes more than linear time, as the source is untrusted.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterator

from astor_rl.code.normalize import FunctionNode
from astor_rl.tasks.tests_source import is_assertion

_COPIED_SHARE = 0.6
"""A definition counts as copied when so much of it (by syntax nodes) is in the tests."""
_LEAST_NODES = 12
"""Definitions below this size are too common to be said to be copied (`return n + 1`)."""
_LEAST_WHOLE = 8
"""As `_LEAST_NODES`, for a definition that is repeated as a whole."""
_LEAST_STATEMENT = 5
"""Statements below this size are in any code (`x = 0`)."""
_ROUNDS = 8
"""Passes over the tests that follow a value from name to name: more than tests written to be read
take, few enough to be quick."""
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


def copied_definition(tests: ast.Module, code: ast.Module) -> str:
    """Name of a definition of the code that the tests repeat; empty if there is none.

    Such tests would compare the code with itself, which says nothing of what it should do.
    Compared are statements, blind to the names of variables: those that aren't trivial wherever in
    the tests they are, all of them with each function of the tests.
    """
    told = _telling(_statements(tests))
    definitions = [_statements(node) for node in ast.walk(tests) if isinstance(node, FunctionNode)]
    for node in ast.walk(code):
        if not isinstance(node, FunctionNode):
            continue
        whole = _statements(node)
        if sum(map(_weight, whole.elements())) >= _LEAST_WHOLE and whole in definitions:
            return node.name
        own = _telling(whole)
        total = sum(_weight(shape) * times for shape, times in own.items())
        shared = sum(_weight(shape) * times for shape, times in (own & told).items())
        if total >= _LEAST_NODES and shared >= _COPIED_SHARE * total:
            return node.name
    return ""


_Shape = tuple[str, ...]


def _weight(shape: _Shape) -> int:
    return len(shape)


def _telling(statements: Counter[_Shape]) -> Counter[_Shape]:
    """Those of the statements that aren't in any code."""
    return Counter({s: n for s, n in statements.items() if _weight(s) >= _LEAST_STATEMENT})


def _statements(tree: ast.AST) -> Counter[_Shape]:
    """Shapes of the statements at all levels; a compound one without its body."""
    found: Counter[_Shape] = Counter()
    waiting: list[ast.AST] = [tree]
    for node in waiting:  # grows while it is walked
        match node:
            case ast.Lambda(body=body):
                found[_shape(ast.Return(body))] += 1
                continue
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                found[_shape(ast.Assign([target], value))] += 1
            case ast.Expr(value=ast.Constant()):  # a docstring says nothing
                continue
            case ast.stmt() if not isinstance(node, FunctionNode | ast.ClassDef):
                found[_shape(node)] += 1
            case _:
                pass
        waiting += ast.iter_child_nodes(node)
    return found


def _shape(statement: ast.stmt) -> _Shape:
    """A statement's nodes breadth first, variables numbered in order of appearance."""
    numbers: dict[str, int] = {}
    shape: list[str] = []
    waiting: list[ast.AST] = [statement]
    for node in waiting:  # grows while it is walked
        if isinstance(node, ast.expr_context):
            continue
        words = [type(node).__name__]
        for name, part in ast.iter_fields(node):
            if isinstance(node, ast.stmt) and name in _BODIES:
                continue
            parts = part if isinstance(part, list) else [part]
            children = [child for child in parts if isinstance(child, ast.AST)]
            waiting += children
            words.append(str(len(children)))
            variable = name == "id" or (name == "arg" and not isinstance(node, ast.keyword))
            if variable and isinstance(part, str):
                words.append(f"_{numbers.setdefault(part, len(numbers))}")
            elif not children:
                words.append(_text(part))
        shape.append(" ".join(words))
    return tuple(shape)


def _text(part: object) -> str:
    return hex(part) if type(part) is int else repr(part)


def checks_calls(tests: ast.Module, names: Collection[str]) -> bool:
    """Whether an assertion depends on a call of what the code under test defines.

    Args:
        tests: the tests' syntax tree.
        names: what is imported from the code under test, and its module's own name.
    """
    derived: set[str] = set()
    for _ in range(_ROUNDS):  # a name may be bound from one that is bound further down
        known = len(derived)
        for node in ast.walk(tests):
            if any(_calls(part, names, derived) for part in _sources(node)):
                derived.update(filter(None, _bound(node)))
        if len(derived) == known:
            break
    return _calls(tests, names, derived, asserted=False)


def _calls(
    tree: ast.AST, names: Collection[str], derived: Collection[str], *, asserted: bool = True
) -> bool:
    """Whether something derived is mentioned, or one of the code's names within a call.

    With `asserted` false: whether it is within an assertion.
    """
    waiting = [(tree, asserted, False)]
    while waiting:
        node, asserted, called = waiting.pop()
        asserted = asserted or _asserts(node)
        called = called or isinstance(node, ast.Call)
        place = _place(node)
        if asserted and (place in derived or (called and place in names)):
            return True
        waiting += [(child, asserted, called) for child in ast.iter_child_nodes(node)]
    return False


def _asserts(node: ast.AST) -> bool:
    """An assertion, or a `with` block of one (`pytest.raises`), whose body it looks at."""
    if isinstance(node, ast.With):
        return any(is_assertion(item.context_expr) for item in node.items)
    return is_assertion(node)


def _place(node: ast.AST) -> str:
    """What a variable or attribute is known by."""
    if isinstance(node, ast.Attribute):
        return f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _sources(node: ast.AST) -> Iterator[ast.AST]:
    """What the values that a node binds come from."""
    match node:
        case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.NamedExpr(value=value):
            yield value
        case ast.AnnAssign(value=ast.expr() as value):
            yield value
        case ast.For(iter=value) | ast.AsyncFor(iter=value) | ast.comprehension(iter=value):
            yield value
        case ast.withitem(context_expr=value):
            yield value
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield from node.body
        case _:
            pass


def _bound(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (_place(part) for target in targets for part in ast.walk(target))
        case ast.withitem(optional_vars=ast.expr() as target):
            yield from map(_place, ast.walk(target))
        case (
            ast.AugAssign(target=target)
            | ast.AnnAssign(target=target)
            | ast.NamedExpr(target=target)
            | ast.For(target=target)
            | ast.AsyncFor(target=target)
            | ast.comprehension(target=target)
        ):
            yield from map(_place, ast.walk(target))
        case _:
            pass
