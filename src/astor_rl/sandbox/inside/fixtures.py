"""The fixtures that small test files use: their own, and `tmp_path`, `monkeypatch`, `capsys`.

Every fixture lives for one test, whatever scope it names: a test can't see another's leftovers.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple, Self

_PLAIN: Final = (ModuleType, str, int, float, bool, list, dict, tuple, set, type(None))
"""Types of what no decorator returns."""


class Fixture(NamedTuple):
    """A fixture function, and whether every test gets it."""

    function: Callable[..., Any]
    autouse: bool


class Captured(NamedTuple):
    """What `capsys.readouterr()` returns."""

    out: str
    err: str


class _Capsys:
    def __init__(self) -> None:
        self._streams = (io.StringIO(), io.StringIO())

    def redirected(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(contextlib.redirect_stdout(self._streams[0]))
        stack.enter_context(contextlib.redirect_stderr(self._streams[1]))
        return stack

    def readouterr(self) -> Captured:
        """What was printed since the last call."""
        texts = [stream.getvalue() for stream in self._streams]
        for stream in self._streams:
            stream.seek(0)
            stream.truncate()
        return Captured(*texts)


def _tmp_path() -> pathlib.Path:
    return pathlib.Path(tempfile.mkdtemp())


def _monkeypatch() -> Iterator[Any]:
    monkeypatch = sys.modules["pytest"].MonkeyPatch()
    yield monkeypatch
    monkeypatch.undo()


def _capsys() -> Iterator[_Capsys]:
    capsys = _Capsys()
    with capsys.redirected():
        yield capsys


_BUILT_IN: Mapping[str, Fixture] = {
    "tmp_path": Fixture(_tmp_path, False),
    "monkeypatch": Fixture(_monkeypatch, False),
    "capsys": Fixture(_capsys, False),
}


def provided_by(owner: ModuleType | type) -> dict[str, Fixture]:
    """The fixtures that a module or class defines, by name, with the built-in ones for modules."""
    found = dict(_BUILT_IN) if isinstance(owner, ModuleType) else {}
    for name, thing in list(vars(owner).items()):
        fixture = _as_fixture(thing)
        if fixture is not None:
            found[fixture[0] or name] = fixture[1]
    return found


def _marker_of(thing: Any) -> Any:
    """What marks a fixture, looked up without running anything of the thing's."""
    if type(thing) is FunctionType:
        return thing.__dict__.get("_pytestfixturefunction")
    marker = inspect.getattr_static(thing, "_fixture_function_marker", None)
    return marker or inspect.getattr_static(thing, "_pytestfixturefunction", None)


def _as_fixture(thing: Any) -> tuple[str | None, Fixture] | None:
    """(given name, fixture) of what `@pytest.fixture` returned: an object since pytest 8.4."""
    if type(thing) in _PLAIN or _marker_of(thing) is None:
        return None
    marker = getattr(thing, "_fixture_function_marker", None) or thing._pytestfixturefunction
    if hasattr(thing, "_get_wrapped_function"):
        function = thing._get_wrapped_function()
    else:
        function = inspect.unwrap(thing)
    return marker.name, Fixture(function, bool(marker.autouse))


class Scope:
    """The fixtures of one test: made on demand, each once, undone in reverse order."""

    def __init__(
        self,
        provided: Mapping[str, Fixture],
        parameters: Mapping[str, Any],
        module: ModuleType,
        owner: type | None,
    ) -> None:
        self._provided = provided
        self._values = dict(parameters)
        self._module = module
        self._instance = owner() if owner is not None else None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._stack.__exit__(*exc)

    def bound(self, function: Any) -> Callable[..., Any]:
        """The function as a method of this test's instance, if it has one."""
        if self._instance is None or not hasattr(function, "__get__"):
            bare: Callable[..., Any] = function
            return bare
        method: Callable[..., Any] = function.__get__(self._instance, type(self._instance))
        return method

    def prepare(self, wanted: Sequence[str], function: Callable[..., Any]) -> None:
        """Autouse fixtures, `usefixtures` and the xunit-style set-up functions."""
        for name, fixture in self._provided.items():
            if fixture.autouse:
                self.value(name)
        for name in wanted:
            self.value(name)
        if self._instance is None:
            self._around(self._module, "setup_function", "teardown_function", function)
        else:
            self._around(self._instance, "setup_class", "teardown_class", None)
            self._around(self._instance, "setup_method", "teardown_method", function)

    def _around(self, owner: Any, before: str, after: str, argument: Any) -> None:
        if (undo := getattr(owner, after, None)) is not None:
            self._stack.callback(_call_optional, undo, argument)
        if (setup := getattr(owner, before, None)) is not None:
            _call_optional(setup, argument)

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """A value for each parameter of a function that has no default of its own."""
        parameters = inspect.signature(function).parameters.values()
        return {
            p.name: self.value(p.name)
            for p in parameters
            if p.name in self._values or (p.default is p.empty and p.kind not in _VARIADIC)
        }

    def value(self, name: str) -> Any:
        """The value of a parameter or fixture.

        Raises:
            LookupError: there is none of that name.
        """
        if name not in self._values:
            if name not in self._provided:
                raise LookupError(f"fixture {name!r} not found")
            function = self.bound(self._provided[name].function)
            if name in _BUILT_IN and self._provided[name] is _BUILT_IN[name]:
                function = self._provided[name].function
            made = function(**self.arguments(function))
            if inspect.isgenerator(made):
                self._stack.callback(next, made, None)
                made = next(made)
            self._values[name] = made
        return self._values[name]


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _call_optional(function: Callable[..., Any], argument: Any) -> None:
    """xunit-style functions may take the test as an argument or not."""
    takes = inspect.signature(function).parameters
    if takes and argument is not None:
        function(argument)
    else:
        function()
