"""What a written test may not do: look at the code under test instead of calling it.

Where tests share a process with the versions they are run on, a test that could read a version's
source, or change the module, could fail on the mutants without testing anything; from a process of
its own it can't, and is refused all the same, for it tests nothing. This policy refuses the ways to
do so that can be seen in the source. It is a filter, not a wall: source that hides what it does may
pass it.
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
    "ForwardRef Formatter MonkeyPatch StrFormatStyle TestLoader _excinfo ag_code ag_frame "
    "attrgetter builtins cell_contents co_code co_consts co_names codecs cr_code cr_frame "
    "defaultTestLoader f_back f_builtins f_code f_globals f_lineno f_locals get_type_hints getrepr "
    "gi_code gi_frame importlib importorskip loadTestsFromName loadTestsFromNames methodcaller "
    "mock modules open os singledispatch singledispatchmethod subprocess sys tb tb_frame tb_next "
    "traceback vformat"
)
_SUBMODULES = _words("logging.config logging.handlers unittest.loader unittest.mock")
"""Parts of allowed modules that import or replace what they are told by name."""
_BY_NAME = frozenset({"getattr", "hasattr"})
"""Builtins that take an attribute by its name: only a call with a name in sight can be checked."""
_FIELD_ACCESS = re.compile(r"\{[^{}:!]*[.\[]")
"""A field of `str.format` that gets an attribute or item of what is formatted."""
_FIXTURES = frozenset({"monkeypatch", "request", "mocker"})
_ARITHMETIC = "add|sub|mul|matmul|truediv|floordiv|mod|divmod|pow|lshift|rshift|and|xor|or"
_DUNDER = re.compile(r"__\w+__")
_HARMLESS = re.compile(
    rf"__[ir]?({_ARITHMETIC})__|"
    "__(name|qualname|doc|class|main|str|repr|format|bytes|len|length_hint|eq|ne|lt|le|gt|ge|hash|"
    "bool|init|new|post_init|del|iter|next|reversed|contains|missing|getitem|setitem|delitem|call|"
    "enter|exit|await|aiter|anext|neg|pos|abs|invert|int|float|complex|index|round|trunc|floor|"
    "ceil|cause|context|copy|deepcopy|annotations|future|slots|all|test|author|version)__"
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
    checked: set[int] = set()
    for node in ast.walk(tests):  # a call comes before the name that it calls
        if isinstance(node, ast.Call) and _named_access(node):
            checked.add(id(node.func))
        by_name = isinstance(node, ast.Name) and node.id in _BY_NAME and id(node) not in checked
        found = "uses getattr with a computed name" if by_name else ""
        found = found or next(_objections(node, own, bound), "")
        if found:
            return found
    return ""


def _named_access(call: ast.Call) -> ast.Attribute | None:
    """What a call of `getattr` or `hasattr` reads, if the name is a constant; else None."""
    match call:
        case ast.Call(
            func=ast.Name(id=function),
            args=[value, ast.Constant(value=str() as name), *_],
        ) if function in _BY_NAME and not isinstance(value, ast.Starred):
            return ast.Attribute(value, name, ast.Load())
        case _:
            return None


def _objections(node: ast.AST, own: set[str], bound: Mapping[str, str]) -> Iterator[str]:
    match node:
        case ast.Import(names=aliases):
            yield from (f"imports {a.name}" for a in aliases if not _importable(a.name, own))
        case ast.ImportFrom(module=name, names=aliases, level=level):
            yield from _from_import(name or "", aliases, level, own)
        case ast.Name(id=name) if name in _NAMES or (_DUNDER.fullmatch(name) and _hidden(name)):
            yield f"uses {name}"
        case ast.Attribute():
            yield from _attribute(node, own, bound)
        case ast.MatchClass(kwd_attrs=names):
            for name in names:
                yield from _attribute(ast.Attribute(node.cls, name, ast.Load()), own, bound)
        case ast.Constant(value=str() as text):
            yield from (f"names {d} in a string" for d in _DUNDER.findall(text) if _hidden(d))
        case ast.Call():
            yield from _call(node, own, bound)
        case ast.arg(arg=name) if name in _FIXTURES:
            yield f"asks for the fixture {name}"
        case _:
            pass


def _call(node: ast.Call, own: set[str], bound: Mapping[str, str]) -> Iterator[str]:
    if read := _named_access(node):
        yield from _attribute(read, own, bound)
    elif isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) > 1:
        yield "makes a class with type"


def _importable(name: str, own: set[str]) -> bool:
    if name in _SUBMODULES:
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
        refused = alias.name in _ATTRIBUTES or f"{name}.{alias.name}" in _SUBMODULES
        if refused or (partly and not partly.fullmatch(alias.name)):
            yield f"imports {name}.{alias.name}"


def _attribute(node: ast.Attribute, own: set[str], bound: Mapping[str, str]) -> Iterator[str]:
    name = node.attr
    base = node.value.id if isinstance(node.value, ast.Name) else ""
    source = bound.get(base, "")
    if _DUNDER.fullmatch(name) and _hidden(name):
        yield f"uses {name}"
    if name in _ATTRIBUTES or f"{source}.{name}" in _SUBMODULES:
        yield f"uses .{name}"
    if name in ("format", "format_map") and source not in own and not _plainly_formats(node.value):
        yield f"uses .{name} with fields that aren't in sight or get attributes"
    if source in _PARTLY and not _PARTLY[source].fullmatch(name):
        yield f"uses {source}.{name}"
    if source and source not in own and name.startswith("_") and not _DUNDER.fullmatch(name):
        yield f"uses {source}.{name}"
    # Setting an attribute of a class (by its name) is ordinary use of it.
    of_own_class = source in own and base[:1].isupper()
    if source and not isinstance(node.ctx, ast.Load) and not of_own_class:
        yield f"changes {base}.{name}"


def _plainly_formats(template: ast.expr) -> bool:
    """Whether a template is a constant without `{x.y}` and `{x[y]}`."""
    match template:
        case ast.Constant(value=str() as text):
            return not _FIELD_ACCESS.search(text)
        case _:
            return False


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
