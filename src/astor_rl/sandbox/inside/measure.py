"""Line and branch coverage of a target by coverage.py, with one object made in the zygote.

Making a `Coverage` object costs milliseconds and using a warm one a fraction of one, so jobs
inherit it. The target's source is a real file in the scratch directory, because coverage.py's
analysis reads it: lines and branches are counted exactly as `coverage run --branch` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import coverage
from coverage.parser import PythonParser

from astor_rl.sandbox.inside import modules

_FOLDER: Final = "measured"


class Target:
    """One version of the module under test. `load` starts what `Measurement.stopped` ends."""

    def __init__(self, name: str, source: str, file: str, tracer: coverage.Coverage | None) -> None:
        self._name = name
        self._source = source
        self._file = file
        self._tracer = tracer

    def load(self) -> None:
        """Execute it under its import name; its source can be read nowhere."""
        code = modules.compiled(self._source, self._file, "")
        if self._tracer is not None:
            self._tracer.start()
        modules.execute(self._name, code, self._file)

    def coverage(self) -> list[int] | None:
        """`[lines hit, lines, branches hit, branches]`, or None when not measured."""
        if self._tracer is None:
            return None
        # Only now, for coverage.py's analysis: the tests could have read it.
        os.makedirs(os.path.dirname(self._file))
        with open(self._file, "w", encoding="utf-8", errors="surrogatepass") as stream:
            stream.write(self._source)
        numbers = self._tracer._analyze(self._file).numbers
        os.unlink(self._file)
        os.removedirs(os.path.dirname(self._file))
        return [
            numbers.n_executed,
            numbers.n_statements,
            numbers.n_executed_branches,
            numbers.n_branches,
        ]


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

    def target(self, name: str, source: str, wanted: bool) -> Target:
        """One version; with `wanted`, measured from its `load` to the end of `stopped`."""
        # A file of its own for each keeps their data apart: `erase()` would cost 20 ms, since the
        # next start works out again where the standard library is. Also for those that are not
        # measured: `__file__` shall not tell which is.
        self._count += 1
        file = os.path.abspath(os.path.join(_FOLDER, str(self._count), f"{name}.py"))
        return Target(name, source, file, self._coverage if wanted else None)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """At the end, nothing is measured any more."""
        try:
            yield
        finally:
            if self._coverage._started:
                self._coverage.stop()
