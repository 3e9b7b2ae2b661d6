"""Line and branch coverage of a target by coverage.py, with one object made in the zygote.

Making a `Coverage` object costs milliseconds and using a warm one a fraction of one, so jobs
inherit it. The target's source is a real file in the scratch directory, because coverage.py's
analysis reads it: lines and branches are counted exactly as `coverage run --branch` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import coverage
from coverage.parser import PythonParser

from astor_rl.sandbox.inside import modules

_FOLDER: Final = "measured"


class Target:
    """One version of the module under test."""

    def __init__(self, name: str, source: str, file: str) -> None:
        self._name = name
        self._source = source
        self._file = file
        self._result: list[int] | None = None

    def load(self) -> None:
        """Execute it under its import name."""
        modules.execute(self._name, modules.compiled(self._source, self._file), self._file)

    def measured(self, numbers: Any) -> None:
        """Keep coverage.py's counts."""
        self._result = [
            numbers.n_executed,
            numbers.n_statements,
            numbers.n_executed_branches,
            numbers.n_branches,
        ]

    def coverage(self) -> list[int] | None:
        """`[lines hit, lines, branches hit, branches]`, or None when not measured."""
        return self._result


class Measurement:
    """Measures targets one after the other."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(
            data_file=None,
            branch=True,
            config_file=False,
            include=[f"*/{_FOLDER}/*"],
            messages=False,
        )
        self._coverage.set_option("run:disable_warnings", ["no-data-collected"])
        self._count = 0
        # Everything it imports and compiles on first use, before the walls go up.
        self._coverage.start()
        self._coverage.stop()
        self._coverage.get_data()
        PythonParser(text="if 1:\n    pass\n", filename="warm.py").parse_source()

    @contextmanager
    def of(self, name: str, source: str, wanted: bool) -> Iterator[Target]:
        """The target; with `wanted`, what runs inside is measured."""
        if not wanted:
            yield Target(name, source, f"{name}.py")
            return
        # A file of its own for each keeps their data apart: `erase()` would cost 20 ms, since the
        # next start works out again where the standard library is.
        self._count += 1
        folder = os.path.abspath(os.path.join(_FOLDER, str(self._count)))
        os.makedirs(folder)
        file = os.path.join(folder, f"{name}.py")
        with open(file, "w", encoding="utf-8", errors="surrogatepass") as stream:
            stream.write(source)
        target = Target(name, source, file)
        self._coverage.start()
        try:
            yield target
        finally:
            self._coverage.stop()
        target.measured(self._coverage._analyze(file).numbers)
