"""Code generation of a whole file: the row and the prompt. Exercism, Aider's polyglot benchmark."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from astor_rl.errors import DataError
from astor_rl.tasks import validation
from astor_rl.tasks.parsing import parse_python
from astor_rl.types import Example


def exercise_fields(row: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check an exercise row; see `CodeGenerationTask` for the fields.

    Raises:
        DataError: a field is missing, of the wrong type, or the exercise isn't one Python file.
    """
    fields: dict[str, Any] = {"prompt": validation.require(row, "prompt", str, origin)}
    for name in ("files", "reference"):
        fields[name] = _texts(row, name, origin)
    fields["support_files"] = _texts(row, "support_files", origin) if "support_files" in row else {}
    tests: list[Any] = validation.require(row, "tests", list, origin)
    fields["stub_already_passes"] = validation.optional(
        row, "stub_already_passes", bool, origin, False
    )
    fields["tests"] = {}
    for place, test in enumerate(tests):
        where = f"{origin}: field 'tests[{place}]'"
        if not isinstance(test, Mapping):
            raise DataError(f"{where} is {type(test).__name__}; it must be {{path, content}}")
        path = validation.require(test, "path", str, where)
        content = validation.require(test, "content", str, where)
        fields["tests"][path] = without_skipped(content) if path.endswith(".py") else content
    names = list(fields["files"])
    if len(names) != 1 or not names[0].endswith(".py"):
        raise DataError(f"{origin}: field 'files' names {names}; an exercise is one .py file")
    if names[0] not in fields["reference"]:
        raise DataError(f"{origin}: field 'reference' has no {names[0]!r}")
    if not any(path.endswith(".py") for path in fields["tests"]):
        raise DataError(f"{origin}: field 'tests' has no Python file")
    return fields


def without_skipped(source: str) -> str:
    """A test file without the tests that it skips itself (`@unittest.skip("extra-credit")`).

    A skip that happens while running counts as a failure, or a solution could skip its way out;
    so what its authors always skip has to go before.
    """
    module = parse_python(source)
    if module is None or not any(map(_is_skipped, ast.walk(module))):
        return source
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef):
            node.body = [inner for inner in node.body if not _is_skipped(inner)] or [ast.Pass()]
    return ast.unparse(module)


def _is_skipped(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return False
    names = {ast.unparse(mark).split("(")[0] for mark in node.decorator_list}
    return bool(names & {"skip", "unittest.skip", "pytest.mark.skip"})


def _texts(row: Mapping[str, Any], name: str, origin: str) -> dict[str, str]:
    values: dict[str, Any] = validation.require(row, name, dict, origin)
    for path, value in values.items():
        if not isinstance(value, str):
            shown = type(value).__name__
            raise DataError(f"{origin}: field '{name}[{path}]' is {shown}; it must be str")
    return dict(values)


def exercise_prompt(example: Example) -> str:
    """The user message: instructions, the file to write, and the form of the answer."""
    row = example.fields
    ((name, stub),) = row["files"].items()
    return (
        f"{row['prompt'].strip()}\n\n"
        f"Write the file `{name}`, which begins as:\n```python\n{stub.strip()}\n```\n\n"
        "Answer with the whole file in one ```python block."
    )


def exercise_gold(row: Mapping[str, Any]) -> str:
    """The reference solution's file."""
    (name,) = row["files"]
    return str(row["reference"][name])


def stub_is_broken(row: Mapping[str, Any]) -> bool:
    """Whether the stub is a wrong answer in the right form."""
    (stub,) = row["files"].values()
    return parse_python(stub) is not None and not row["stub_already_passes"]
