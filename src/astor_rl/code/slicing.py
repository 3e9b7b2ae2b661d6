"""Cut a function out of a module together with all it needs, without importing anything.

A slice is source that runs by itself: the function last, before it the functions, classes and
constants of the same module that it mentions, before those the imports of an allowed part of the
standard library. A function that needs anything else (another package, files, randomness, time)
has no slice.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

from astor_rl.code.normalize import (
    clone,
    docstring_of,
    parse_source,
    strip_annotations,
    strip_docstrings,
)
from astor_rl.syntax import parse

_PURE_MODULES_WORDS = """
abc array base64 binascii bisect calendar cmath collections collections.abc colorsys copy
dataclasses datetime decimal difflib enum fnmatch fractions functools hashlib heapq html
html.entities html.parser itertools json keyword math numbers operator posixpath re
stat statistics string struct textwrap types typing unicodedata urllib.parse warnings zlib
"""
PURE_MODULES = frozenset(_PURE_MODULES_WORDS.split())
"""Standard library modules a slice may import: no input, output, processes, time or chance."""

_REFUSED_NAMES_WORDS = """
print input open exec eval compile globals locals vars __import__ id hash breakpoint exit quit
help memoryview super __file__ __name__ __builtins__ __loader__ __spec__
"""
_REFUSED_NAMES = frozenset(_REFUSED_NAMES_WORDS.split())
_REFUSED_ATTRIBUTES_WORDS = """
now today utcnow fromtimestamp localtime expanduser expandvars abspath realpath environ getcwd
__globals__ __code__ __subclasses__ __builtins__ __class__ __dict__ __bases__ __mro__
gi_frame f_back f_globals _getframe modules ctypes
"""
_REFUSED_ATTRIBUTES = frozenset(_REFUSED_ATTRIBUTES_WORDS.split())
_BUILTINS = frozenset(dir(builtins))
_MAX_PARTS = 8


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: as written.
        kind: `positional`, `keyword` (keyword-only), `args` (`*args`) or `kwargs`.
        default: source of the default, empty when the parameter is required.
        annotation: source of the annotation, empty when there is none.
    """

    name: str
    kind: str
    default: str = ""
    annotation: str = ""


@dataclass(frozen=True, slots=True)
class FunctionSlice:
    """A function with all it needs.

    Attributes:
        name: what to call it by in `code`.
        qualname: with its class, when it is a static method.
        line: 1-based line of the `def` in its module.
        prelude: imports, constants and helpers, without docstrings; may be empty.
        function: the function itself, without docstring, comments and rich annotations.
        docstring: the cleaned docstring, may be empty.
        parameters: in order.
        helpers: names of the functions and classes in the prelude.
        is_generator: whether calling it makes a generator.
    """

    name: str
    qualname: str
    line: int
    prelude: str
    function: str
    docstring: str
    parameters: tuple[Parameter, ...]
    helpers: tuple[str, ...]
    is_generator: bool

    @property
    def code(self) -> str:
        """The whole self-contained source, the function last."""
        return f"{self.prelude}\n\n{self.function}" if self.prelude else self.function

    @property
    def node(self) -> ast.FunctionDef:
        """The syntax tree of `function`, fresh on every call."""
        node = parse(self.function).body[0]
        assert isinstance(node, ast.FunctionDef)  # `function` was unparsed from one
        return node

    @property
    def head_lines(self) -> int:
        """Lines of `function` before its first statement: decorators and the `def` line."""
        first = self.node.body[0]
        decorators = getattr(first, "decorator_list", None)
        return (decorators[0].lineno if decorators else first.lineno) - 1


class ModuleSlicer:
    """Slices functions out of one module's source.

    Args:
        source: the module; one that doesn't parse has no functions.
        max_chars: longest slice.
    """

    def __init__(self, source: str, *, max_chars: int = 2000) -> None:
        self._max_chars = max_chars
        self._tree = parse_source(source) or ast.Module(body=[], type_ignores=[])
        self._docstrings = {
            id(node): docstring_of(node)
            for node in ast.walk(self._tree)
            if isinstance(node, ast.FunctionDef)
        }
        self._annotations = _annotation_sources(self._tree)
        strip_docstrings(self._tree)
        strip_annotations(self._tree)
        self._bindings: dict[str, ast.stmt] = {}
        self._imports: dict[str, ast.stmt] = {}
        self._order = {id(node): place for place, node in enumerate(self._tree.body)}
        for node in self._tree.body:
            self._bind(node)
        self._wanted: dict[int, frozenset[str] | None] = {}

    def functions(self) -> list[tuple[str, ast.FunctionDef]]:
        """(qualified name, node) of module-level functions and static methods, in order."""
        found = [(n.name, n) for n in self._tree.body if isinstance(n, ast.FunctionDef)]
        for owner in self._tree.body:
            if isinstance(owner, ast.ClassDef):
                found += [
                    (f"{owner.name}.{node.name}", node)
                    for node in owner.body
                    if isinstance(node, ast.FunctionDef) and _is_static(node)
                ]
        return found

    def slices(self) -> Iterator[FunctionSlice]:
        """Every function that can be sliced."""
        for qualname, node in self.functions():
            found = self._slice(qualname, node)
            if found is not None:
                yield found

    def _bind(self, node: ast.stmt) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            self._bindings[node.name] = node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        self._bindings[part.id] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                single = _single_import(node, alias)
                if single is not None:
                    self._imports[alias.asname or alias.name] = single

    def _slice(self, qualname: str, node: ast.FunctionDef) -> FunctionSlice | None:
        function = node
        if "." in qualname:
            function = clone(node)
            function.decorator_list = []
        wanted = _free_names(function)
        if wanted is None:
            return None
        needed = self._closure(wanted - {node.name})
        if needed is None:
            return None
        imports, parts = needed
        prelude = "\n\n".join(
            text
            for text in (
                "\n".join(sorted(ast.unparse(item) for item in imports)),
                "\n\n".join(ast.unparse(part) for part in parts if part is not node),
            )
            if text
        )
        body = ast.unparse(function)
        if len(prelude) + len(body) > self._max_chars:
            return None
        return FunctionSlice(
            name=node.name,
            qualname=qualname,
            line=node.lineno,
            prelude=prelude,
            function=body,
            docstring=self._docstrings.get(id(node), ""),
            parameters=self._parameters(node),
            helpers=tuple(p.name for p in parts if isinstance(p, ast.FunctionDef | ast.ClassDef)),
            is_generator=_is_generator(node),
        )

    def _closure(self, wanted: frozenset[str]) -> tuple[list[ast.stmt], list[ast.stmt]] | None:
        """Imports and statements that bind `wanted` and all they want; None if that can't be."""
        imports: dict[str, ast.stmt] = {}
        parts: dict[int, ast.stmt] = {}
        waiting = sorted(wanted)
        while waiting:
            name = waiting.pop()
            if name in self._bindings:
                part = self._bindings[name]
                if id(part) not in parts:
                    more = self._free(part)
                    if more is None or len(parts) >= _MAX_PARTS:
                        return None
                    parts[id(part)] = part
                    waiting.extend(sorted(more))
            elif name in self._imports:
                imports[name] = self._imports[name]
            elif name not in _BUILTINS or name in _REFUSED_NAMES:
                return None
        ordered = sorted(parts.values(), key=lambda part: self._order[id(part)])
        return list(imports.values()), ordered

    def _free(self, part: ast.stmt) -> frozenset[str] | None:
        if id(part) not in self._wanted:
            self._wanted[id(part)] = _free_names(part)
        return self._wanted[id(part)]

    def _parameters(self, node: ast.FunctionDef) -> tuple[Parameter, ...]:
        spec = node.args
        positional = [*spec.posonlyargs, *spec.args]
        padding = [None] * (len(positional) - len(spec.defaults))
        found = [
            self._parameter(arg, "positional", default)
            for arg, default in zip(positional, [*padding, *spec.defaults], strict=True)
        ]
        if spec.vararg:
            found.append(self._parameter(spec.vararg, "args", None))
        for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            found.append(self._parameter(arg, "keyword", default))
        if spec.kwarg:
            found.append(self._parameter(spec.kwarg, "kwargs", None))
        return tuple(found)

    def _parameter(self, arg: ast.arg, kind: str, default: ast.expr | None) -> Parameter:
        return Parameter(
            arg.arg,
            kind,
            ast.unparse(default) if default is not None else "",
            self._annotations.get(id(arg), ""),
        )


def _annotation_sources(tree: ast.Module) -> dict[int, str]:
    return {
        id(node): ast.unparse(node.annotation)
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.annotation is not None
    }


def _single_import(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> ast.stmt | None:
    """An import statement of one name, or None when a slice may not have it."""
    if isinstance(node, ast.Import):
        # `import a.b` binds `a`: the plain name then says too little about what is used.
        if alias.name not in PURE_MODULES or ("." in alias.name and not alias.asname):
            return None
        return ast.Import(names=[alias])
    if node.level or node.module not in PURE_MODULES or alias.name == "*":
        return None
    return ast.ImportFrom(module=node.module, names=[alias], level=0)


def _is_static(node: ast.FunctionDef) -> bool:
    return [ast.unparse(d) for d in node.decorator_list] == ["staticmethod"]


def _is_generator(node: ast.FunctionDef) -> bool:
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(part))
    return False


def _free_names(node: ast.stmt) -> frozenset[str] | None:
    """Names that a statement reads from its module; None when it does what a slice must not."""
    for part in ast.walk(node):
        if isinstance(part, ast.Global | ast.Import | ast.ImportFrom | ast.AsyncFunctionDef):
            return None
        if isinstance(part, ast.Attribute) and part.attr in _REFUSED_ATTRIBUTES:
            return None
    try:
        table = symtable.symtable(ast.unparse(node), "<slice>", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return None
    return frozenset(_global_reads(table))


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    at_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or (at_top and not symbol.is_assigned())):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_reads(child)
