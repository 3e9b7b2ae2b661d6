"""Rows of the unit-test task: what they must hold, and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from astor_rl.errors import DataError
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.parsing import parse_python
from astor_rl.tasks.tests_source import has_assertion
from astor_rl.tasks.validation import optional, require


def checked_row(kind: str, row: Mapping[str, Any], origin: str) -> tuple[str, dict[str, Any]]:
    """The key and fields of a row.

    Fields: `module` (import name, no `.py`), `entry_point` (may be empty), `code`, `tests` (the
    reference's source), `mutants` (sources), `support_files`, `buggy` (may be empty).

    Raises:
        DataError: a field is missing, of the wrong type, or isn't Python; names `origin`.
    """
    module = require(row, "module", str, origin).removesuffix(".py")
    if not module.isidentifier():
        raise DataError(f"{origin}: field 'module' is {module!r}; it must be a module's file name")
    fields: dict[str, Any] = {
        "module": module,
        "entry_point": optional(row, "entry_point", str, origin, ""),
        "code": _python(row, "code", origin),
        "tests": _reference(row, origin),
        "mutants": _mutants(row, origin),
        "support_files": _support(row, origin),
        "buggy": "" if row.get("buggy") is None else _python(row, "buggy", origin),
    }
    return content_key(kind, fields), fields


def _python(row: Mapping[str, Any], name: str, origin: str) -> str:
    source = require(row, name, str, origin)
    tree = parse_python(source)
    if tree is None or not tree.body:
        raise DataError(f"{origin}: field {name!r} does not parse; it must be a Python module")
    return source


def _reference(row: Mapping[str, Any], origin: str) -> str:
    value = row.get("reference_tests")
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise DataError(
                f"{origin}: field 'reference_tests' has {len(value)} files; it must have one"
            )
        row = {"reference_tests": next(iter(value.values()))}
    source = _python(row, "reference_tests", origin)
    tree = parse_python(source)
    if tree is None or not has_assertion(tree):
        raise DataError(f"{origin}: field 'reference_tests' asserts nothing; it must test the code")
    return source


def _mutants(row: Mapping[str, Any], origin: str) -> list[str]:
    found: list[str] = []
    for place, mutant in enumerate(optional(row, "mutants", list, origin, [])):
        if not isinstance(mutant, Mapping) or not isinstance(mutant.get("code"), str):
            raise DataError(f"{origin}: field 'mutants[{place}]' has no text 'code'")
        found.append(mutant["code"])
    return found


def _support(row: Mapping[str, Any], origin: str) -> dict[str, str]:
    files = optional(row, "support_files", dict, origin, {})
    for name, source in files.items():
        if not (isinstance(name, str) and isinstance(source, str)):
            raise DataError(f"{origin}: field 'support_files[{name!r}]' must be a text")
    return dict(files)
