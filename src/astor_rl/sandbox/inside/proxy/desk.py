"""Does what the other side asks for."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from types import MethodType, ModuleType
from typing import Any, Final

from astor_rl.sandbox.inside.proxy.access import Access
from astor_rl.sandbox.inside.proxy.standin import SPECIALS, kind_of, specials_of
from astor_rl.sandbox.inside.proxy.wire import Method

_TEXT: Final = 2000


class Desk:
    """The operations that one side offers to the other.

    Args:
        access: what may be reached.
        modules: import names of the modules that may be imported.
    """

    def __init__(self, access: Access, modules: frozenset[str] = frozenset()) -> None:
        self._access = access
        self._modules = modules
        self._operations: Mapping[str, Callable[..., Any]] = {
            "call": _call,
            "method": self._method,
            "special": _special,
            "get": self._get,
            "set": self._set,
            "delete": self._delete,
            "dir": self._dir,
            "copy": _copy,
            "import": self._import,
        }

    def perform(self, operation: str, operands: tuple[Any, ...]) -> Any:
        """One operation.

        Raises:
            anything: the code under test raises, or there is no such operation.
        """
        return self._operations[operation](*operands)

    def exportable(self, value: Any) -> bool:
        """Whether an object may cross as a number."""
        return self._access.exportable(value)

    def offers(self, module: ModuleType) -> bool:
        """Whether a module is one of those that may be imported."""
        return module.__name__ in self._modules

    def describe(self, cls: type) -> tuple[Any, ...]:
        """The fields of a `standin.Description`, without bases that must not cross.

        Raises:
            AttributeError: it isn't a class.
        """
        doc = cls.__doc__
        return (
            str(cls.__name__),
            str(cls.__qualname__),
            str(cls.__module__),
            doc[:_TEXT] if type(doc) is str else None,
            kind_of(cls),
            specials_of(cls),
            tuple(base for base in cls.__bases__ if self.exportable(base)),
        )

    def attribute(self, owner: Any, name: str) -> Any:
        """An attribute, if it may be read.

        Raises:
            AttributeError: it isn't there or may not.
        """
        if type(name) is not str or not self._access.readable(owner, name):
            raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r} here")
        return getattr(owner, name)

    def _get(self, owner: Any, name: str) -> Any:
        value = self.attribute(owner, name)
        if type(value) is MethodType and value.__self__ is owner and value.__name__ == name:
            return Method(name)
        return value

    def _method(self, owner: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        return self.attribute(owner, name)(*args, **kwargs)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._check_writable(owner, name)
        setattr(owner, name, value)

    def _delete(self, owner: Any, name: str) -> None:
        self._check_writable(owner, name)
        delattr(owner, name)

    def _check_writable(self, owner: Any, name: str) -> None:
        if type(name) is not str or not self._access.writable(owner, name):
            raise AttributeError(
                f"attribute {name!r} of {type(owner).__name__!r} can't be set here"
            )

    def _dir(self, owner: Any) -> list[str]:
        return [name for name in dir(owner) if self._access.readable(owner, name)]

    def _import(self, name: str) -> tuple[Any, list[str]]:
        """A module, and what `from name import *` brings."""
        if name not in self._modules:
            raise ModuleNotFoundError(f"No module named {name!r}")
        module = importlib.import_module(name)
        listed = getattr(module, "__all__", None)
        if listed is None:
            listed = [name for name in vars(module) if not name.startswith("_")]
        return module, [name for name in listed if type(name) is str]


def _call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return function(*args, **kwargs)


def _special(owner: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if name not in SPECIALS:
        raise AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r} here")
    method = getattr(type(owner), name, None)
    if method is None:
        raise TypeError(f"{type(owner).__name__!r} object has no {name}")
    return method(owner, *args, **kwargs)


def _copy(owner: Any, deep: bool) -> Any:
    return copy.deepcopy(owner) if deep else copy.copy(owner)
