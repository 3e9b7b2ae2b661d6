"""What of a trusted side's objects the other side may reach.

Code under test gets callables and objects of the tests, tests get functions and classes of the code
under test. Neither shall get from there to a frame, to source, or to the harness.
"""

from __future__ import annotations

import sys
import unittest
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    TracebackType,
)
from typing import Any, Final

from astor_rl.sandbox.inside.proxy.standin import SPECIALS

_NEVER: Final = (
    FrameType,
    CodeType,
    TracebackType,
    CellType,
    MappingProxyType,
    unittest.TestCase,
    unittest.TestResult,
)
_CLOSED: Final = (
    FunctionType,
    MethodType,
    BuiltinFunctionType,
    MethodWrapperType,
    GeneratorType,
    CoroutineType,
    AsyncGeneratorType,
)
"""Types with attributes that lead to frames and source."""
_ITERATION: Final = frozenset(("send", "throw", "close"))
_PLAIN: Final = frozenset(("__name__", "__qualname__", "__doc__", "__module__", "__all__"))
_FRAMEWORKS: Final = ("_pytest", "pytest", "unittest", "astor_rl")


class Access:
    """Everything: for the side that is not trusted, which has nothing to lose."""

    def readable(self, owner: Any, name: str) -> bool:
        """Whether the other side may have an attribute."""
        return True

    def writable(self, owner: Any, name: str) -> bool:
        """Whether the other side may set or delete an attribute."""
        return True

    def exportable(self, value: Any) -> bool:
        """Whether the other side may have an object of this side."""
        return True


class Guarded(Access):
    """What a trusted side gives away.

    Args:
        modules: import names of modules that may be passed; empty for none.
        private: whether names with one underscore may be read, and attributes of objects be set.
    """

    def __init__(self, modules: frozenset[str] = frozenset(), *, private: bool = False) -> None:
        self._modules = modules
        self._private = private

    def readable(self, owner: Any, name: str) -> bool:
        """Public names, and a few special ones; of functions and generators hardly any."""
        if name.startswith("__") and name.endswith("__"):
            return name in _PLAIN or name in SPECIALS
        if name.startswith("_") and not self._private:
            return False
        if isinstance(owner, FunctionType):
            return name in vars(owner)
        if isinstance(owner, _CLOSED):
            return name in _ITERATION
        return not _is_mock(type(owner))

    def writable(self, owner: Any, name: str) -> bool:
        """Attributes of objects, where private access is given."""
        return (
            self._private
            and not (name.startswith("__") and name.endswith("__"))
            and not isinstance(owner, (type, ModuleType, *_CLOSED))
        )

    def exportable(self, value: Any) -> bool:
        """No frames, no code, no parts of a test framework, no modules but those named."""
        if isinstance(value, ModuleType):
            return value.__name__ in self._modules
        kind = value if isinstance(value, type) else type(value)
        if issubclass(kind, _NEVER):
            return False
        return str(kind.__module__).partition(".")[0] not in _FRAMEWORKS or _is_mock(kind)


def _is_mock(kind: type) -> bool:
    """Mocks may be called and nothing else: by their attributes one could change what they say."""
    mock = sys.modules.get("unittest.mock")
    return mock is not None and issubclass(kind, mock.NonCallableMock)
