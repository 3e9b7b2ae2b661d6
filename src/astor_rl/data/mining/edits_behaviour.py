"""Edits that may change what a function does: checks, defaults, messages, and bug fixes."""

from __future__ import annotations

import ast
from functools import partial

from astor_rl.code.mutants import Mutant, mutate
from astor_rl.data.mining.edits import (
    Change,
    Material,
    Operator,
    expression,
    names_in,
    parameters_of,
    parsed,
    written,
)


def add_default(material: Material) -> Change | None:
    """The last required parameter gets a default."""
    node = material.node
    spec = node.args
    place = len(spec.args) - len(spec.defaults) - 1
    if place < 0 or spec.posonlyargs:
        return None
    values = ["None", "0", "1", "''", "()"]
    calls = [expression(f"f({call.input})") for call in material.calls[:10]]
    shown = [c.args[place] for c in calls if isinstance(c, ast.Call) and len(c.args) > place]
    simple = sorted({ast.unparse(a) for a in shown if isinstance(a, ast.Constant)}, key=len)
    value = material.choose(simple[:2] or values)
    spec.defaults = [expression(value), *spec.defaults]
    return Change(
        material.part.function, written(node), {"name": spec.args[place].arg, "value": value}
    )


def change_default(material: Material) -> Change | None:
    """A default gets another value."""
    node = material.node
    options = [
        (arg, default)
        for arg, default in zip(node.args.args[::-1], node.args.defaults[::-1], strict=False)
        if isinstance(default, ast.Constant)
    ]
    if not options:
        return None
    arg, default = options[int(material.rng.integers(len(options)))]
    old = ast.unparse(default)
    default.value = _another(material, default.value)
    new = ast.unparse(default)
    return Change(material.part.function, written(node), {"name": arg.arg, "old": old, "new": new})


def _another(material: Material, value: object) -> bool | int | float | str:
    match value:
        case bool():
            return not value
        case int():
            return value + int(material.rng.integers(1, 10))
        case float():
            return value + 0.5
        case str():
            return {" ": "_", "": " ", ",": ";", "-": "_"}.get(value, "")
        case _:
            return int(material.rng.integers(0, 3))


def add_guard(material: Material) -> Change | None:
    """Empty input returns early."""
    node = material.node
    names = parameters_of(node)
    kinds = {type(ast.literal_eval(call.output)) for call in material.calls[:20]}
    empty: dict[type, str] = {
        list: "[]",
        str: "''",
        dict: "{}",
        int: "0",
        bool: "False",
        tuple: "()",
    }
    value = empty.get(kinds.pop()) if len(kinds) == 1 else None
    if not names or value is None:
        return None
    name = names[0]
    node.body[:0] = parsed(f"if not {name}:\n    return {value}")
    return Change(material.part.function, written(node), {"name": name, "value": value})


def add_none_check(material: Material) -> Change | None:
    """None is refused."""
    node = material.node
    names = parameters_of(node)
    if not names:
        return None
    name = names[0]
    node.body[:0] = parsed(f"if {name} is None:\n    raise ValueError('{name} must not be None')")
    return Change(material.part.function, written(node), {"name": name, "error": "ValueError"})


def add_type_check(material: Material) -> Change | None:
    """Arguments of another type are refused."""
    node = material.node
    names = parameters_of(node)
    calls = [expression(f"f({call.input})") for call in material.calls[:20]]
    firsts = [call.args[0] for call in calls if isinstance(call, ast.Call) and call.args]
    kinds = {type(ast.literal_eval(first)).__name__ for first in firsts}
    if not names or len(kinds) != 1:
        return None
    name, kind = names[0], kinds.pop()
    node.body[:0] = parsed(
        f"if not isinstance({name}, {kind}):\n    raise TypeError('{name} must be {kind}')"
    )
    return Change(material.part.function, written(node), {"name": name, "kind": kind})


def add_logging(material: Material) -> Change | None:
    """The call is logged."""
    node = material.node
    names = parameters_of(node)
    if not names or "logger" in names_in(node):
        return None
    name = names[0]
    node.body[:0] = parsed(f"logger.debug('{node.name}: {name}=%r', {name})")
    return Change(material.part.function, written(node), {"name": name})


def add_deprecation(material: Material) -> Change | None:
    """Calling it warns."""
    node = material.node
    node.body[:0] = parsed(f"warnings.warn('{node.name} is deprecated', DeprecationWarning)")
    return Change(material.part.function, written(node), {})


def remove_debug_print(material: Material) -> Change | None:
    """A forgotten print goes."""
    node = material.node
    names = parameters_of(node)
    if not names:
        return None
    text = material.choose([f"print({names[0]})", f"print('{node.name}', {names[0]})"])
    node.body[:0] = parsed(text)
    return Change(written(node), material.part.function, {"name": names[0]})


def change_exception(material: Material) -> Change | None:
    """Another exception is raised."""
    node = material.node
    for part in ast.walk(node):
        if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
            name = part.exc.func
            if isinstance(name, ast.Name) and name.id in ("ValueError", "TypeError", "KeyError"):
                old = name.id
                name.id = "TypeError" if old == "ValueError" else "ValueError"
                return Change(material.part.function, written(node), {"old": old, "new": name.id})
    return None


def improve_message(material: Material) -> Change | None:
    """An error says which function raised it."""
    node = material.node
    for part in ast.walk(node):
        if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call) and part.exc.args:
            text, error = part.exc.args[0], ast.unparse(part.exc.func)
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                text.value = f"{node.name}: {text.value}"
                return Change(material.part.function, written(node), {"error": error})
    return None


def change_constant(material: Material) -> Change | None:
    """A number in the body gets another value."""
    node = material.node
    found = [
        part
        for statement in node.body
        for part in ast.walk(statement)
        if isinstance(part, ast.Constant)
        and type(part.value) in (int, float)
        and part.value not in (0, 1)
    ]
    if not found:
        return None
    chosen = found[int(material.rng.integers(len(found)))]
    old = ast.unparse(chosen)
    chosen.value = _another(material, chosen.value)
    return Change(material.part.function, written(node), {"old": old, "new": ast.unparse(chosen)})


def _fix(material: Material, *, op: str) -> Change | None:
    """A mutant is the version before, the function the one after."""
    found = mutate(
        material.part.function, operators=(op,), seed=int(material.rng.integers(1 << 30))
    )
    usable = [mutant for mutant in found if len(mutant.before) <= 40 and len(mutant.after) <= 40]
    if not usable:
        return None
    mutant = usable[0]
    return Change(mutant.code, material.part.function, _words(mutant))


def _words(mutant: Mutant) -> dict[str, str]:
    """What the fix replaces, as it stands in the diff."""
    return {"old": " ".join(mutant.after.split()), "new": " ".join(mutant.before.split())}


FIXED_OPERATORS = (
    "compare", "arith", "const_int", "negate", "boolop", "return_none", "remove_statement",
    "slice", "range", "swap_args", "call", "unary", "const_bool", "const_str", "break_continue",
)  # fmt: skip
"""Mutation operators whose undoing is a bug fix that a subject line can name."""

FIXES: dict[str, Operator] = {f"fix_{op}": partial(_fix, op=op) for op in FIXED_OPERATORS}
"""Bug fixes by name."""
