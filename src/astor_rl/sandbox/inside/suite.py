"""Harness of `SuiteJob`: trusted test files against an untrusted solution, in one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from astor_rl.sandbox.inside import modules
from astor_rl.sandbox.inside.counting import asserts_at_top_level, instrumented
from astor_rl.sandbox.inside.tests import Emit, Report, run_tests


def run(job: Mapping[str, Any], output_limit: int, emit: Emit) -> list[Any]:
    """Emit `[name, passed]` after each test; return `[status, message, row]`.

    Names carry their file (`file.py::test`) when there are several.
    """
    files: dict[str, str] = {**job["files"], **job["tests"]}
    for path, text in files.items():
        _write(path, text)
    # The solution's own names win over nothing of ours: sys.path stays the library's.
    sys.meta_path.insert(0, modules.SourceFinder(files))
    prefixed = len(job["tests"]) > 1
    total = Report()
    for path, source in job["tests"].items():
        name = modules.module_name(path)
        if name is None:
            continue
        prefix = f"{path}::" if prefixed else ""
        report = Report(lambda test, ok, prefix=prefix: emit([prefix + test, ok]))  # type: ignore[misc]
        code = modules.compiled(instrumented(source), path, source)
        run_tests(name, code, path, asserts_at_top_level(source), report)
        _merge(total, report, prefix)
    return [total.status, total.message, total.row()]


def _merge(total: Report, part: Report, prefix: str) -> None:
    total.passed += [prefix + name for name in part.passed]
    total.failed += [prefix + name for name in part.failed]
    total.assertions += part.assertions
    total.message = total.message or part.message
    if part.status != "ok":
        total.status = part.status


def _write(path: str, text: str) -> None:
    """Tests may open their files; imports don't need them."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as stream:
        stream.write(text)
