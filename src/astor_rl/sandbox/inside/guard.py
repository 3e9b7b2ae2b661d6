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
from types import ModuleType
from typing import Any, Final

from astor_rl.sandbox.inside import child, collect, counting, fixtures, measure, modules

_FRAMEWORK: Final = (unittest.case, unittest.loader, unittest.result, unittest.suite)
_own: Final[list[ModuleType]] = [child, collect, counting, fixtures, measure, modules]
_PYTEST: Final = importlib.import_module("pytest")
_namespace_of: Final = type.__dict__["__dict__"].__get__


def watch(module: ModuleType) -> None:
    """Watch a harness too."""
    _own.append(module)


def snapshot() -> Callable[[], str]:
    """Remember how everything is now.

    Returns:
        a function that names the first thing that is different, or an empty string.
    """
    seen = [
        (name, names, {key: _look(names, key) for key in keys}, strict)
        for name, names, keys, strict in _watched()
    ]

    def changed() -> str:
        for name, names, before, strict in seen:
            for key in before.keys() | (names.keys() if strict else set()):
                now = _look(names, key)
                if key not in before:
                    if callable(now[0]):
                        return f"{name}.{key}"
                elif now[0] is not before[key][0] or now[1] is not before[key][1]:
                    return f"{name}.{key}"
        return ""

    return changed


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


def _look(names: Mapping[str, Any], key: str) -> tuple[Any, Any]:
    value = names.get(key)
    return value, getattr(value, "__code__", None)
