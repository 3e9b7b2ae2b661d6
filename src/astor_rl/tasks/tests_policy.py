"""What a written test may not do: look at the code under test instead of calling it.

Tests share a process with the versions they are run on, so a test that could read a version's
source, or change the module, could fail on the mutants without testing anything. This policy
refuses the ways to do so that can be seen in the source. It is a filter, not a wall: source that
hides what it does may pass it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODULES = _words(
    "__future__ abc array base64 bisect calendar cmath collections contextlib copy dataclasses "
    "datetime decimal enum fractions functools hashlib heapq io itertools json logging math "
    "numbers operator pytest random re statistics string struct textwrap time typing unittest "
    "uuid warnings zoneinfo"
)
_PARTLY = {
    "inspect": re.compile(r"is(generator|class|function|coroutine|asyncgen)\w*"),
    "sys": re.compile(r"maxsize|float_info|getrecursionlimit|version_info"),
    "types": re.compile(r"GeneratorType|MappingProxyType|NoneType|SimpleNamespace"),
}
"""Modules of which only some names may be used."""

_NAMES = _words(
    "__builtins__ __file__ __import__ __loader__ __spec__ breakpoint compile delattr eval exec "
    "exit globals input locals memoryview open quit setattr vars"
)
_ATTRIBUTES = _words(
    "ag_code ag_frame attrgetter builtins cell_contents codecs co_code co_consts co_names cr_code "
    "cr_frame f_back f_builtins f_code f_globals f_lineno f_locals gi_code gi_frame importlib "
    "methodcaller mock modules open os subprocess sys tb tb_frame tb_next traceback"
)
_FIXTURES = frozenset({"monkeypatch", "request", "mocker"})
_ARITHMETIC = "add|sub|mul|matmul|truediv|floordiv|mod|divmod|pow|lshift|rshift|and|xor|or"
_DUNDER = re.compile(r"__\w+__")
_HARMLESS = re.compile(
    rf"__[ir]?({_ARITHMETIC})__|"
    "__(name|qualname|doc|class|main|str|repr|format|bytes|len|length_hint|eq|ne|lt|le|gt|ge|hash|"
    "bool|init|new|post_init|del|iter|next|reversed|contains|missing|getitem|setitem|delitem|call|"
    "enter|exit|await|aiter|anext|neg|pos|abs|invert|int|float|complex|index|round|trunc|floor|"
    "ceil|cause|context|copy|deepcopy|annotations|future)__"
)


def refusal(tests: ast.Module, module: str, support: Collection[str] = ()) -> str:
    """Why these tests must not be run, in a few words; empty when they may.

    Args:
        tests: the tests' syntax tree.
        module: import name of the module under test.
        support: import names of modules given beside it.
    """
    own = {module, *support}
    bound = dict(_bound_by_imports(tests))
    for node in ast.walk(tests):
        found = next(_objections(node, own, bound), "")
        if found:
            return found
    return ""


def _objections(node: ast.AST, own: set[str], bound: Mapping[str, str]) -> Iterator[str]:
    match node:
        case ast.Import(names=aliases):
            yield from (f"imports {a.name}" for a in aliases if not _importable(a.name, own))
        case ast.ImportFrom(module=name, names=aliases, level=level):
            yield from _from_import(name or "", aliases, level, own)
        case ast.Name(id=name) if name in _NAMES:
            yield f"uses {name}"
        case ast.Attribute():
            yield from _attribute(node, own, bound)
        case ast.Constant(value=str() as text):
            yield from (f"names {d} in a string" for d in _DUNDER.findall(text) if _hidden(d))
        case ast.Call(func=ast.Name(id="getattr"), args=[_, name, *_]):
            if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                yield "uses getattr with a computed name"
        case ast.arg(arg=name) if name in _FIXTURES:
            yield f"asks for the fixture {name}"
        case _:
            pass


def _importable(name: str, own: set[str]) -> bool:
    if name == "unittest.mock":
        return False
    head = name.partition(".")[0]
    return head in own or head in _MODULES or name in _PARTLY


def _from_import(name: str, aliases: list[ast.alias], level: int, own: set[str]) -> Iterator[str]:
    if level or not _importable(name, own):
        yield f"imports {'.' * level}{name}"
    for alias in aliases:
        if name in own:
            continue
        partly = _PARTLY.get(name)
        if alias.name in _ATTRIBUTES or (partly and not partly.fullmatch(alias.name)):
            yield f"imports {name}.{alias.name}"


def _attribute(node: ast.Attribute, own: set[str], bound: Mapping[str, str]) -> Iterator[str]:
    name = node.attr
    base = node.value.id if isinstance(node.value, ast.Name) else ""
    source = bound.get(base, "")
    if _DUNDER.fullmatch(name) and _hidden(name):
        yield f"uses {name}"
    if name in _ATTRIBUTES:
        yield f"uses .{name}"
    if source in _PARTLY and not _PARTLY[source].fullmatch(name):
        yield f"uses {source}.{name}"
    if source and source not in own and name.startswith("_") and not _DUNDER.fullmatch(name):
        yield f"uses {source}.{name}"
    # Setting an attribute of a class (by its name) is ordinary use of it.
    of_own_class = source in own and base[:1].isupper()
    if source and not isinstance(node.ctx, ast.Load) and not of_own_class:
        yield f"changes {base}.{name}"


def _hidden(dunder: str) -> bool:
    return _HARMLESS.fullmatch(dunder) is None


def _bound_by_imports(tests: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, the module that it is or comes from) of everything that imports bind."""
    for node in ast.walk(tests):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                yield name, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, node.module or ""
