"""Finds the tests of a loaded module: functions, classes and `unittest` cases, with parameters.

A small part of pytest's own rules, without discovery, plugins, conftest or assertion rewriting:
nothing that the code under test could hook into from a file.
"""

from __future__ import annotations

import inspect
import itertools
import unittest
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from astor_rl.sandbox.inside import fixtures


class Skipped(Exception):  # noqa: N818 - as pytest calls it
    """A test that was marked not to run; it counts as failed."""


@dataclass
class Test:
    """One test: a name and what runs it."""

    name: str
    run: Callable[[], None]


@dataclass
class _Function:
    name: str
    function: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[Any, ...] = ()
    owner: type | None = None


def collect(module: ModuleType) -> Iterator[Test]:
    """The module's tests, in the order of definition; a `TestCase` sorts its methods."""
    provided = fixtures.provided_by(module)
    for name, thing in list(vars(module).items()):
        if isinstance(thing, type):
            if issubclass(thing, unittest.TestCase):
                yield from _unittest_class(thing)
            elif name.startswith("Test") and "__init__" not in vars(thing):
                yield from _plain_class(module, thing, provided)
        elif name.startswith("test") and inspect.isroutine(thing):
            for variant in _variants(_Function(name, thing, marks=_marks(thing))):
                yield Test(variant.name, _runner(module, variant, provided))


def _unittest_class(case: type[unittest.TestCase]) -> Iterator[Test]:
    if case.__module__ in ("unittest.case", "unittest.async_case"):  # imported, not defined
        return
    for method in unittest.defaultTestLoader.getTestCaseNames(case):
        yield Test(f"{case.__name__}::{method}", lambda method=method: _run_case(case, method))  # type: ignore[misc]


def _run_case(case: type[unittest.TestCase], method: str) -> None:
    result = _Result()
    # A suite of one runs setUpClass and setUpModule as well.
    unittest.TestSuite([case(method)]).run(result)
    if result.problem is not None:
        raise result.problem
    if result.skipped:
        raise Skipped(result.skipped[0][1])
    if result.testsRun != 1 or result.unexpectedSuccesses:
        raise AssertionError("the test did not run as expected")


class _Result(unittest.TestResult):
    problem: BaseException | None = None

    def _note(self, error: Any) -> None:
        if self.problem is None:
            self.problem = error[1]

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 - unittest's names
        self._note(err)

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._note(err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._note(err)


def _plain_class(
    module: ModuleType, cls: type, provided: Mapping[str, fixtures.Fixture]
) -> Iterator[Test]:
    provided = {**provided, **fixtures.provided_by(cls)}
    names = dict.fromkeys(n for base in reversed(cls.__mro__) for n in vars(base))
    for name in names:
        function = inspect.getattr_static(cls, name)
        if not (name.startswith("test") and callable(getattr(cls, name))):
            continue
        marks = (*_marks(cls), *_marks(function))
        full = f"{cls.__name__}::{name}"
        for variant in _variants(_Function(full, function, marks=marks, owner=cls)):
            yield Test(variant.name, _runner(module, variant, provided))


def _marks(thing: Any) -> tuple[Any, ...]:
    marks = getattr(thing, "pytestmark", ())
    marks = marks if isinstance(marks, list | tuple) else [marks]
    return tuple(getattr(mark, "mark", mark) for mark in marks)


def _variants(function: _Function) -> Iterator[_Function]:
    """The function once for each combination of its `parametrize` marks."""
    axes = [_axis(mark) for mark in function.marks if mark.name == "parametrize"]
    if not axes:
        yield function
        return
    # pytest varies the first-applied (innermost) decorator fastest.
    for combination in itertools.product(*reversed(axes)):
        values = {name: value for point in combination for name, value in point[1].items()}
        label = "-".join(point[0] for point in reversed(combination))
        extra = tuple(mark for point in combination for mark in point[2])
        yield _Function(
            f"{function.name}[{label}]",
            function.function,
            {**function.parameters, **values},
            (*(m for m in function.marks if m.name != "parametrize"), *extra),
            function.owner,
        )


def _axis(mark: Any) -> list[tuple[str, dict[str, Any], tuple[Any, ...]]]:
    """(label, values by argument name, marks) for each row of one `parametrize`."""
    arguments = dict(zip(("argnames", "argvalues", "indirect", "ids"), mark.args, strict=False))
    arguments.update(mark.kwargs)
    names, ids = arguments["argnames"], arguments.get("ids")
    single = isinstance(names, str) and "," not in names
    split = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    split = [name for name in split if name]
    rows = []
    for index, row in enumerate(arguments["argvalues"]):
        marks, label = (), None
        if hasattr(row, "marks") and hasattr(row, "values") and not isinstance(row, dict):
            marks, label = tuple(getattr(m, "mark", m) for m in row.marks), row.id
            values = tuple(row.values)
        else:
            values = (row,) if single else tuple(row)
        if label is None and isinstance(ids, list | tuple) and index < len(ids):
            label = ids[index]
        if len(values) != len(split):
            raise ValueError(f"parametrize has {len(split)} names and {len(values)} values")
        rows.append((str(index if label is None else label), dict(zip(split, values)), marks))  # noqa: B905
    return rows


def _skip_reason(marks: tuple[Any, ...]) -> str | None:
    for mark in marks:
        if mark.name == "skip" or (mark.name == "skipif" and mark.args and mark.args[0]):
            return str(mark.kwargs.get("reason", "skipped"))
    return None


def _runner(
    module: ModuleType, test: _Function, provided: Mapping[str, fixtures.Fixture]
) -> Callable[[], None]:
    def run() -> None:
        if (reason := _skip_reason(test.marks)) is not None:
            raise Skipped(reason)
        wanted = [name for mark in test.marks if mark.name == "usefixtures" for name in mark.args]
        with fixtures.Scope(provided, test.parameters, module, test.owner) as scope:
            function = scope.bound(test.function)
            scope.prepare(wanted, function)
            result = function(**scope.arguments(function))
        if inspect.iscoroutine(result):
            result.close()
            raise Skipped("async tests are not run")

    return run
