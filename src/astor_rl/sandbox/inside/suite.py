"""Harness of `SuiteJob`: trusted test files against an untrusted solution, in one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from astor_rl.sandbox.inside import guard, modules
from astor_rl.sandbox.inside.counting import asserts_at_top_level, instrumented
from astor_rl.sandbox.inside.protocol import END
from astor_rl.sandbox.inside.tests import Note, assertions, run_tests

guard.watch(sys.modules[__name__])


def run(job: Mapping[str, Any], output_limit: int) -> Iterator[list[Any]]:
    """`[status, name, failure]` after each test, then the end.

    The end is `[END, "ok", "", assertions, what the solution changed of the framework]`. Names
    carry their file (`file.py::test`) when there are several.
    """
    files: dict[str, str] = {**job["files"], **job["tests"]}
    for path, text in files.items():
        write(path, text)
    # The solution's own names win over nothing of ours: sys.path stays the library's.
    sys.meta_path.insert(0, modules.SourceFinder(files))
    return map(partial(_message, guard.snapshot()), steps(job["tests"]))


def _message(changed: Callable[[], str], step: Note | int) -> list[Any]:
    difference = changed()
    if isinstance(step, int):
        return [END, "ok", "", step, difference]
    failure = step.failure
    if difference and not failure:
        failure = f"{step.name}: the solution changed {difference}"
    return [step.status, step.name, failure]


def steps(tests: Mapping[str, str]) -> Iterator[Note | int]:
    """A note for each test, then the number of assertions."""
    total = 0
    for path, source in tests.items():
        name = modules.module_name(path)
        if name is None:
            continue
        prefix = f"{path}::" if len(tests) > 1 else ""
        code = modules.compiled(instrumented(source), path, source)
        for note in run_tests(name, code, path, asserts_at_top_level(source)):
            yield note._replace(name=prefix + note.name)
        total += assertions()
    yield total


def write(path: str, text: str) -> None:
    """Put a file into the scratch directory: it may be opened; imports don't need it."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as stream:
        stream.write(text)
