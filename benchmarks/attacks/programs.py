"""Random programs: built from syntax trees, made of noise, and real functions with mistakes put in.

All from one seeded generator; nothing here runs them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MODULES: Final = _words(
    "base64 bisect calendar colorsys copy difflib fnmatch fractions heapq html ipaddress "
    "json.encoder pprint posixpath quopri reprlib shlex stat statistics string textwrap"
)
_NAMES: Final = _words("a b c f g x self")
_BUILTINS: Final = _words(
    "open eval exec print input range list sorted getattr setattr delattr type super vars globals "
    "locals memoryview bytearray bytes int str float sum max pow divmod map filter zip iter next "
    "enumerate compile exit breakpoint id hash repr len dict set frozenset isinstance callable dir "
    "object property slice complex chr ord format abs any all round reversed __import__"
)
_ATTRIBUTES: Final = _words(
    "__class__ __dict__ __bases__ __subclasses__ __globals__ __code__ __reduce__ __init__ __call__ "
    "__iter__ __eq__ __hash__ __repr__ __del__ __getattr__ append clear pop update join split "
    "format read write close real f_back gi_frame mro"
)
_IMPORTS: Final = _words(
    "os sys gc ctypes threading signal time json random re math itertools functools socket "
    "subprocess multiprocessing asyncio inspect types builtins resource mmap tempfile pickle "
    "traceback weakref atexit faulthandler"
)
_OPERATORS: Final = (ast.Add, ast.Sub, ast.Mult, ast.Mod, ast.Pow, ast.LShift, ast.BitOr, ast.Div)
_COMPARISONS: Final = (ast.Eq, ast.Lt, ast.In, ast.Is, ast.NotEq, ast.GtE)
_CONSTANTS: Final = (
    0, 1, -1, 2**70, 10**9, 1e308, float("nan"), 1j, "", "x" * 50, "\ud800", "\0", b"\xff", None,
    True, ..., "/etc/passwd", "__main__", 201,
)  # fmt: skip
_TOKENS: Final = (
    "(", ")", "[", "]", ":", "\n", "    ", "\t", "lambda", "yield", "return", "while True:", "**",
    "0", "None", "\0", "\ud800", "é", "'", '"""', "\\", "async ", "import os", "global x", "%",
)  # fmt: skip
_DEEP: Final = 3


class Programs:
    """A source of programs; the same seed gives the same ones."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def program(self) -> str:
        """Any of the kinds."""
        kinds = (self.built, self.built, self.mutated, self.mutated, self.noise)
        return self._dice.choice(kinds)()

    def noise(self) -> str:
        """Random bytes as text, some of it no Unicode."""
        data = self._dice.randbytes(self._dice.randrange(2000))
        return data.decode(self._dice.choice(("latin-1", "utf-8")), "surrogateescape")

    def mutated(self, text: str = "") -> str:
        """A function of the standard library, or the text, with a few mistakes."""
        text = text or self._dice.choice(_library())
        for _ in range(self._dice.randrange(1, 7)):
            text = self._dice.choice(_MUTATIONS)(self._dice, text)
        return text

    def built(self) -> str:
        """A random syntax tree, as text."""
        body: list[ast.stmt] = []
        for _ in range(self._dice.randrange(1, 8)):
            statement = self._statement(_DEEP)
            # Else the first mistake would be the end of nearly all.
            body.append(statement if self._dice.random() < 0.2 else _forgiven(statement))
        return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))

    def call(self, program: str) -> str:
        """An expression for a job to evaluate; often a call of what the program defines."""
        functions = re.findall(r"^def (\w+)", program, re.MULTILINE)
        if not functions or self._dice.random() < 0.3:
            return ast.unparse(ast.fix_missing_locations(self._expression(_DEEP)))
        given = [repr(self._dice.choice(_CONSTANTS)) for _ in range(self._dice.randrange(4))]
        return f"{self._dice.choice(functions)}({', '.join(given)})"

    def bytes_like(self, data: bytes) -> bytes:
        """Bytes with a few of them changed, left out or put in."""
        changed = bytearray(data)
        for _ in range(self._dice.randrange(4)):
            at = self._dice.randrange(len(changed) + 1)
            changed[at : at + self._dice.randrange(3)] = self._dice.randbytes(
                self._dice.randrange(4)
            )
        return bytes(changed)

    def _some(self, make: Callable[[], ast.expr], most: int = 3) -> list[ast.expr]:
        return [make() for _ in range(self._dice.randrange(most))]

    def _name(self) -> str:
        return self._dice.choice(_NAMES)

    def _expression(self, depth: int) -> ast.expr:
        if depth <= 0:
            if self._dice.random() < 0.5:
                return ast.Name(self._dice.choice((*_NAMES, *_BUILTINS)), ast.Load())
            return ast.Constant(self._dice.choice(_CONSTANTS))

        def inner() -> ast.expr:
            return self._expression(depth - 1)

        makers: tuple[Callable[[], ast.expr], ...] = (
            lambda: ast.BinOp(inner(), self._dice.choice(_OPERATORS)(), inner()),
            lambda: ast.Compare(inner(), [self._dice.choice(_COMPARISONS)()], [inner()]),
            lambda: ast.Call(inner(), self._some(inner), []),
            lambda: ast.Call(
                ast.Name(self._dice.choice(_BUILTINS), ast.Load()), self._some(inner), []
            ),
            lambda: ast.Attribute(inner(), self._dice.choice(_ATTRIBUTES), ast.Load()),
            lambda: ast.Subscript(inner(), inner(), ast.Load()),
            lambda: ast.List(self._some(inner), ast.Load()),
            lambda: ast.Tuple(self._some(inner), ast.Load()),
            lambda: ast.IfExp(inner(), inner(), inner()),
            lambda: ast.Lambda(_arguments(self._name()), inner()),
            lambda: ast.ListComp(inner(), [self._loop(inner())]),
            lambda: ast.GeneratorExp(inner(), [self._loop(inner())]),
        )
        return self._dice.choice(makers)()

    def _loop(self, over: ast.expr) -> ast.comprehension:
        return ast.comprehension(ast.Name(self._name(), ast.Store()), over, [], 0)

    def _block(self, depth: int) -> list[ast.stmt]:
        return [self._statement(depth - 1) for _ in range(self._dice.randrange(1, 4))]

    def _statement(self, depth: int) -> ast.stmt:
        value = self._expression(2)
        simple: tuple[Callable[[], ast.stmt], ...] = (
            lambda: ast.Assign([ast.Name(self._name(), ast.Store())], value, lineno=0),
            lambda: ast.Expr(value),
            lambda: ast.Return(value),
            lambda: ast.Raise(value),
            lambda: ast.Assert(value),
            lambda: ast.Import([ast.alias(self._dice.choice(_IMPORTS))]),
            lambda: ast.Delete([ast.Name(self._name(), ast.Del())]),
            lambda: ast.Expr(ast.Yield(value)),
            lambda: ast.Global([self._name()]),
            ast.Pass,
            ast.Break,
        )
        if depth <= 0:
            return self._dice.choice(simple)()
        return self._dice.choice((*simple, *self._compound(value, depth)))()

    def _compound(self, value: ast.expr, depth: int) -> tuple[Callable[[], ast.stmt], ...]:
        def block() -> list[ast.stmt]:
            return self._block(depth)

        def handled() -> ast.stmt:
            caught = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), "x", block())
            return ast.Try(block(), [caught], [], block())

        return (
            lambda: ast.If(value, block(), block()),
            lambda: ast.While(value, block(), []),
            lambda: ast.For(ast.Name(self._name(), ast.Store()), value, block(), [], lineno=0),
            lambda: ast.With([ast.withitem(value)], block(), lineno=0),
            lambda: ast.FunctionDef(self._name(), _arguments(self._name()), block(), [], lineno=0),
            lambda: ast.ClassDef(self._name(), [value], [], block(), []),
            handled,
        )


def _forgiven(statement: ast.stmt) -> ast.stmt:
    return ast.Try([statement], [ast.ExceptHandler(None, None, [ast.Pass()])], [], [])


def _arguments(name: str) -> ast.arguments:
    return ast.arguments([], [ast.arg(name)], None, [], [], None, [])


@lru_cache(maxsize=1)
def _library() -> tuple[str, ...]:
    found = []
    for name in _MODULES:
        module = importlib.import_module(name)
        for _, function in inspect.getmembers(module, inspect.isfunction):
            with suppress(OSError):  # made by `exec`
                if function.__module__ == name:
                    found.append(inspect.cleandoc(inspect.getsource(function)) + "\n")
    return tuple(found)


def _without_a_span(dice: random.Random, text: str) -> str:
    at = dice.randrange(len(text) + 1)
    return text[:at] + text[at + dice.randrange(20) :]


def _with_a_token(dice: random.Random, text: str) -> str:
    at = dice.randrange(len(text) + 1)
    return text[:at] + dice.choice(_TOKENS) + text[at:]


def _with_a_line_twice(dice: random.Random, text: str) -> str:
    lines = text.splitlines(keepends=True) or ["\n"]
    line = dice.choice(lines)
    lines.insert(dice.randrange(len(lines) + 1), line)
    return "".join(lines)


def _with_a_sign_changed(dice: random.Random, text: str) -> str:
    places = [i for i, sign in enumerate(text) if sign in "+-*/<>=0123456789"]
    if not places:
        return text
    at = dice.choice(places)
    return text[:at] + dice.choice("+-*/<>=0123456789") + text[at + 1 :]


_MUTATIONS: Final = (
    _without_a_span, _with_a_token, _with_a_line_twice, _with_a_sign_changed, _with_a_sign_changed,
)  # fmt: skip
