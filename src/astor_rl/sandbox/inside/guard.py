"""Notices that untrusted code has changed the framework that judges it.

Tests and code under test share a process, so a hostile side can replace `assertEqual`. It can also
put everything back in time: what is found here counts as failed, what is not proves nothing.
"""

from __future__ import annotations

import builtins
import importlib
import unittest.case
import unittest.loader
import unittest.result
import unittest.suite
from collections.abc import Callable, Iterator, Mapping
from operator import is_
from types import FunctionType, ModuleType
from typing import Any, Final

from astor_rl.sandbox.inside import child, collect, counting, fixtures, measure, modules

_FRAMEWORK: Final = (unittest.case, unittest.loader, unittest.result, unittest.suite)
_own: Final[list[ModuleType]] = [child, collect, counting, fixtures, measure, modules]
_PYTEST: Final = importlib.import_module("pytest")
_namespace_of: Final = type.__dict__["__dict__"].__get__
# Bound now: what is looked for may be among the builtins.
_all, _map = all, map


def watch(module: ModuleType) -> None:
    """Watch a harness too."""
    _own.append(module)


class _Namespace:
    """A namespace as it is now: what is behind its names, and the code of its functions.

    Compared by loops of the interpreter's own, since it is done after every version of a job.
    """

    def __init__(self, name: str, names: Mapping[str, Any], keys: list[str], strict: bool) -> None:
        self._name = name
        self._names = names
        self._strict = strict
        self._keys = keys
        self._all = frozenset(names)
        self._values = [names[key] for key in keys]
        self._functions = [value for value in self._values if type(value) is FunctionType]
        self._codes = [function.__code__ for function in self._functions]

    def difference(self) -> str:
        """The first name behind which there is something else, or an empty string."""
        now = list(map(self._names.get, self._keys))
        if _all(_map(is_, now, self._values)):
            codes = [function.__code__ for function in self._functions]
            if not _all(_map(is_, codes, self._codes)):
                names = [function.__name__ for function in self._functions]
                return self._first(names, codes, self._codes)
            return self._added() if self._strict else ""
        return self._first(self._keys, now, self._values)

    def _first(self, names: list[str], now: list[Any], before: list[Any]) -> str:
        pairs = zip(names, now, before, strict=True)
        return next(f"{self._name}.{name}" for name, new, old in pairs if new is not old)

    def _added(self) -> str:
        new = self._names.keys() - self._all
        return next((f"{self._name}.{key}" for key in new if callable(self._names[key])), "")


def snapshot() -> Callable[[], str]:
    """Remember how everything is now.

    Returns:
        a function that names the first thing that is different, or an empty string.
    """
    seen = [_Namespace(*watched) for watched in _watched()]
    return lambda: next(filter(None, (namespace.difference() for namespace in seen)), "")


def _watched() -> Iterator[tuple[str, Mapping[str, Any], list[str], bool]]:
    """(name, namespace, its names that matter, whether new functions in it matter)."""
    for module in (builtins, _PYTEST, *_FRAMEWORK):
        yield module.__name__, module.__dict__, _functions(module.__dict__), False
    for module in _own:
        yield module.__name__, module.__dict__, list(module.__dict__), False
    for module in (*_FRAMEWORK, *_own):
        for cls in _classes(module):
            names = _namespace_of(cls)
            yield f"{module.__name__}.{cls.__name__}", names, _functions(names), True


def _classes(module: ModuleType) -> list[type]:
    return [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and thing.__module__ == module.__name__
    ]


def _functions(names: Mapping[str, Any]) -> list[str]:
    """The functions, classes and descriptors of a namespace: plain settings may change."""
    return [key for key, value in names.items() if callable(value) or hasattr(value, "__get__")]
