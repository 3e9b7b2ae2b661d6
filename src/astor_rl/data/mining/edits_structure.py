"""Edits that keep what a function does: renaming, extracting, simplifying, documenting."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import textwrap

from astor_rl.code.normalize import clone
from astor_rl.data.mining.edits import (
    Change,
    Material,
    blocks,
    expression,
    names_in,
    parameters_of,
    parsed,
    written,
)
from astor_rl.data.mining.examples import description

_VARIABLE_NAMES = ("result", "value", "item", "total", "current", "count", "text", "output")
_PARAMETER_NAMES = ("value", "data", "items", "source", "size", "text", "other", "target")
_BUILTINS = frozenset(dir(builtins))


class _Renamer(ast.NodeTransformer):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id == self._old:
            node.id = self._new
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        if node.arg == self._old:
            node.arg = self._new
        return node


def rename_variable(material: Material) -> Change | None:
    """A local variable gets another name."""
    node = material.node
    bound = {
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }
    return _renamed(material, sorted(bound), _VARIABLE_NAMES)


def rename_parameter(material: Material) -> Change | None:
    """A parameter gets another name."""
    return _renamed(material, parameters_of(material.node), _PARAMETER_NAMES)


def _renamed(material: Material, olds: list[str], pool: tuple[str, ...]) -> Change | None:
    node = material.node
    taken = names_in(node) | _BUILTINS | set(material.part.helpers)
    news = [name for name in pool if name not in taken]
    if not olds or not news:
        return None
    old, new = material.choose(olds), material.choose(news)
    after = _Renamer(old, new).visit(clone(node))
    return Change(material.part.function, written(after), {"old": old, "new": new})


def rename_function(material: Material) -> Change | None:
    """The function gets a clearer, a private or a public name."""
    node, old = material.node, material.part.name
    bare = old.strip("_")
    options = [bare] if bare != old else [f"_{old}"]
    options += [f"get_{bare}", f"compute_{bare}", f"{bare}_value", f"{bare}_items"]
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", bare).lower()
    if snake != bare:
        options = [snake]
    new = material.choose(options)
    if keyword.iskeyword(new) or new in names_in(node) | _BUILTINS:
        return None
    after = _Renamer(old, new).visit(clone(node))
    after.name = new
    return Change(material.part.function, written(after), {"old": old, "new": new})


def add_docstring(material: Material) -> Change | None:
    """The function gets its docstring."""
    node, text = material.node, description(material.part)
    node.body = [*parsed(repr(text)), *node.body]
    # unparse writes the docstring with triple quotes, on one line.
    return Change(material.part.function, written(node), {})


def add_type_hints(material: Material) -> Change | None:
    """Parameters get the types that the calls use."""
    node = material.node
    names = parameters_of(node)
    hinted = []
    for place, name in enumerate(names):
        arg = [*node.args.posonlyargs, *node.args.args][place]
        kinds = {_type_of(call.input, place) for call in material.calls[:20]}
        if len(kinds) == 1 and arg.annotation is None and (kind := kinds.pop()):
            arg.annotation = expression(kind)
            hinted.append(name)
    results = {type(ast.literal_eval(call.output)).__name__ for call in material.calls[:20]}
    if len(results) == 1 and node.returns is None:
        node.returns = expression(results.pop())
    elif not hinted:
        return None
    what = f"parameter {hinted[0]}" if len(hinted) == 1 else "parameters"
    return Change(material.part.function, written(node), {"what": what if hinted else "the result"})


def _type_of(text: str, place: int) -> str:
    call = expression(f"f({text})")
    assert isinstance(call, ast.Call)
    if place >= len(call.args):
        return ""
    try:
        return type(ast.literal_eval(call.args[place])).__name__
    except ValueError:
        return ""


def extract_constant(material: Material) -> Change | None:
    """A literal becomes a named constant of the module."""
    node = material.node
    found = [
        part
        for statement in node.body
        for part in ast.walk(statement)
        if isinstance(part, ast.Constant)
        and not _in_fstring(statement, part)
        and (
            (type(part.value) in (int, float) and part.value not in (0, 1, -1))
            or (isinstance(part.value, str) and 2 <= len(part.value) <= 30)
        )
    ]
    if not found:
        return None
    chosen = found[int(material.rng.integers(len(found)))]
    value = ast.unparse(chosen)
    kind = "MESSAGE" if isinstance(chosen.value, str) and " " in chosen.value else "LIMIT"
    kind = "TEXT" if isinstance(chosen.value, str) and " " not in chosen.value else kind
    name = f"{material.part.name.strip('_').upper()}_{kind}"
    node = _replaced(node, chosen.value, name)
    return Change(
        material.part.function,
        f"{name} = {value}\n\n{written(node)}",
        {"name": name, "value": value},
    )


def _in_fstring(statement: ast.stmt, constant: ast.Constant) -> bool:
    return any(
        constant in list(ast.walk(part))
        for part in ast.walk(statement)
        if isinstance(part, ast.JoinedStr)
    )


def _replaced(node: ast.FunctionDef, value: object, name: str) -> ast.FunctionDef:
    class Replacer(ast.NodeTransformer):
        def visit_Constant(self, constant: ast.Constant) -> ast.AST:
            same = type(constant.value) is type(value) and constant.value == value
            return ast.Name(name, ast.Load()) if same else constant

        def visit_JoinedStr(self, joined: ast.JoinedStr) -> ast.AST:
            return joined

    for place, statement in enumerate(node.body):
        node.body[place] = Replacer().visit(statement)
    return node


def extract_variable(material: Material) -> Change | None:
    """A returned expression is named first."""
    node = material.node
    options = [
        (block, place)
        for block in blocks(node)
        for place, statement in enumerate(block)
        if isinstance(statement, ast.Return)
        and isinstance(statement.value, ast.Call | ast.BinOp | ast.ListComp | ast.Subscript)
    ]
    name = next((n for n in _VARIABLE_NAMES if n not in names_in(node)), None)
    if not options or name is None:
        return None
    block, place = options[int(material.rng.integers(len(options)))]
    value = ast.unparse(block[place])[len("return ") :]
    block[place : place + 1] = parsed(f"{name} = {value}\nreturn {name}")
    return Change(material.part.function, written(node), {"name": name})


def inline_variable(material: Material) -> Change | None:
    """A variable that is only returned goes."""
    change = extract_variable(material)
    return change and Change(change.after, change.before, change.slots)


def remove_unused_variable(material: Material) -> Change | None:
    """An assignment that nothing reads goes."""
    node = material.node
    names = [n for n in ("unused", "tmp", "old", "debug", "flag") if n not in names_in(node)]
    parameters = parameters_of(node)
    name = material.choose(names)
    values = ["None", "0", "[]", *parameters[:1]]
    node.body[:0] = parsed(f"{name} = {material.choose(values)}")
    return Change(written(node), material.part.function, {"name": name})


def loop_to_comprehension(material: Material) -> Change | None:
    """A loop that only appends becomes a list comprehension."""
    change = comprehension_to_loop(material)
    return change and Change(change.after, change.before, change.slots)


def comprehension_to_loop(material: Material) -> Change | None:
    """A returned list comprehension becomes a loop."""
    node = material.node
    last = node.body[-1]
    name = next((n for n in ("result", "items", "out") if n not in names_in(node)), None)
    if not isinstance(last, ast.Return) or name is None:
        return None
    value = last.value
    if isinstance(value, ast.Call) and len(value.args) == 1 and ast.unparse(value.func) == "list":
        value = value.args[0]
    if not isinstance(value, ast.ListComp | ast.GeneratorExp) or len(value.generators) != 1:
        return None
    part = value.generators[0]
    lines = [f"{name}.append({ast.unparse(value.elt)})"]
    for test in reversed(part.ifs):
        lines = [f"if {ast.unparse(test)}:", *(f"    {line}" for line in lines)]
    body = textwrap.indent("\n".join(lines), "    ")
    target = ast.unparse(part.target)
    source = f"{name} = []\nfor {target} in {ast.unparse(part.iter)}:\n{body}\nreturn {name}"
    node.body[-1:] = parsed(source)
    return Change(material.part.function, written(node), {})


def drop_else_after_return(material: Material) -> Change | None:
    """An `else` after a branch that returns goes."""
    node = material.node
    for block in blocks(node):
        for place, statement in enumerate(block):
            is_guard = (
                isinstance(statement, ast.If)
                and not statement.orelse
                and isinstance(statement.body[-1], ast.Return)
                and place + 1 < len(block)
            )
            if is_guard and isinstance(statement, ast.If):
                statement.orelse = block[place + 1 :]
                del block[place + 1 :]
                return Change(written(node), material.part.function, {})
    return None


def invert_condition(material: Material) -> Change | None:
    """The branches of an `if` change places under the opposite condition."""
    node = material.node
    for part in ast.walk(node):
        plain = isinstance(part, ast.If) and part.orelse and not isinstance(part.orelse[0], ast.If)
        if plain and isinstance(part, ast.If):
            part.test = _negated(part.test)
            part.body, part.orelse = part.orelse, part.body
            return Change(material.part.function, written(node), {})
    return None


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    opposite: dict[type[ast.cmpop], ast.cmpop] = {
        ast.Eq: ast.NotEq(),
        ast.NotEq: ast.Eq(),
        ast.In: ast.NotIn(),
        ast.NotIn: ast.In(),
        ast.Is: ast.IsNot(),
        ast.IsNot: ast.Is(),
    }
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in opposite:
        return ast.Compare(test.left, [opposite[type(test.ops[0])]], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


def use_augmented_assignment(material: Material) -> Change | None:
    """`x = x + y` becomes `x += y`."""
    node = material.node
    for block in blocks(node):
        for place, statement in enumerate(block):
            if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                name, value = statement.target.id, statement.value
                long = ast.BinOp(ast.Name(name, ast.Load()), statement.op, value)
                block[place] = ast.Assign([ast.Name(name, ast.Store())], long)
                return Change(written(node), material.part.function, {"name": name})
    return None


def use_is_none(material: Material) -> Change | None:
    """`== None` becomes `is None`."""
    node = material.node
    name = ""
    for part in ast.walk(node):
        if isinstance(part, ast.Compare) and len(part.ops) == 1:
            right = part.comparators[0]
            if isinstance(right, ast.Constant) and right.value is None:
                name = ast.unparse(part.left)
                same = isinstance(part.ops[0], ast.Is)
                part.ops = [ast.Eq() if same else ast.NotEq()]
    if not name or len(name) > 30:
        return None
    return Change(written(node), material.part.function, {"name": name})


def add_cache(material: Material) -> Change | None:
    """Results are cached."""
    node = material.node
    if node.decorator_list:
        return None
    after = f"@functools.lru_cache(maxsize=None)\n{material.part.function}"
    return Change(material.part.function, after, {})


def keyword_only(material: Material) -> Change | None:
    """Optional parameters can only be given by name."""
    node = material.node
    spec = node.args
    if not spec.defaults or spec.vararg or spec.kwonlyargs or spec.posonlyargs:
        return None
    count = len(spec.defaults)
    if count == len(spec.args):
        return None
    spec.kwonlyargs, spec.kw_defaults = spec.args[-count:], list(spec.defaults)
    spec.args, spec.defaults = spec.args[:-count], []
    names = [arg.arg for arg in spec.kwonlyargs]
    what = names[0] if len(names) == 1 else "optional parameters"
    return Change(material.part.function, written(node), {"what": what})


def merge_nested_if(material: Material) -> Change | None:
    """Two nested conditions become one."""
    node = material.node
    for part in ast.walk(node):
        if isinstance(part, ast.If) and not part.orelse and isinstance(part.test, ast.BoolOp):
            tests = part.test.values
            if isinstance(part.test.op, ast.And) and len(tests) == 2:
                part.test = tests[0]
                part.body = [ast.If(tests[1], part.body, [])]
                return Change(written(node), material.part.function, {})
    return None
