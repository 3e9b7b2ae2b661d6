"""Code generation of one function: the row, the prompt, and the program that is run."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from astor_rl.errors import DataError
from astor_rl.tasks import validation
from astor_rl.tasks.checks import Check, SplitCheck, TestShapeError, split_tests
from astor_rl.tasks.parsing import defined_names, parse_python, parse_quietly
from astor_rl.types import Example

_FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)

_LONGEST_SHOWN = 400
"""Longest test, in characters, that is shown in a prompt."""


def function_fields(row: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Check a function row; see `CodeGenerationTask` for the fields.

    Raises:
        DataError: a field is missing, of the wrong type, or can't be used.
    """
    if row.get("entry_point") is None:
        raise DataError(
            f"{origin}: field 'entry_point' is null or missing; it must name the function "
            "(rows with files to write need the option tier = 'exercise')"
        )
    entry = validation.require(row, "entry_point", str, origin)
    fields: dict[str, Any] = {
        "prompt": validation.require(row, "prompt", str, origin),
        "entry_point": entry,
        "reference": validation.require(row, "reference", str, origin),
        "tests": list(validation.require_texts(row, "tests", origin)),
    }
    for name in ("signature", "setup", "prelude", "given"):
        fields[name] = validation.optional(row, name, str, origin, "")
    for name in ("setup", "prelude"):
        if parse_python(fields[name]) is None:
            raise DataError(f"{origin}: field {name!r} isn't Python: {fields[name]!r:.80}")
    try:
        _checks(tuple(fields["tests"]), entry)
    except TestShapeError as error:
        raise DataError(f"{origin}: field 'tests' {error}") from None
    reference = parse_python(whole_reference(fields))
    if reference is None or entry not in defined_names(reference):
        raise DataError(f"{origin}: field 'reference' doesn't define the entry point {entry!r}")
    return fields


def whole_reference(row: Mapping[str, Any]) -> str:
    """The reference as a module: HumanEval's is only the body that completes the prompt."""
    reference: str = row["reference"]
    module = parse_python(reference)
    if module is not None and row["entry_point"] in defined_names(module):
        return reference
    return f"{row['prompt']}{reference}"


def prompt_code(row: Mapping[str, Any]) -> ast.Module | None:
    """The prompt's syntax tree when the prompt is code to complete, None when it is prose."""
    for text in (row["prompt"], f"{row['prompt'].rstrip()}\n    pass\n"):
        module = parse_python(text)
        if module is not None and row["entry_point"] in defined_names(module):
            return module
    return None


def prelude(row: Mapping[str, Any]) -> str:
    """What a solution may use without repeating it: imports and helpers that the row gives."""
    module = prompt_code(row)
    if module is None:
        return str(row["prelude"])
    kept = [node for node in module.body if not _defines(node, row["entry_point"])]
    return f"{row['prelude']}\n{_source(kept)}".strip()


def _defines(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name


def _source(nodes: Sequence[ast.stmt]) -> str:
    return ast.unparse(ast.Module(body=list(nodes), type_ignores=[]))


def gold_code(row: Mapping[str, Any]) -> str:
    """The reference as an answer: what the prompt gives left out, docstrings that it shows too.

    Written by `ast.unparse`, so that answers of all sources look alike (comments go).
    """
    module = parse_quietly(whole_reference(row))
    given = parse_quietly(prelude(row))
    known, texts = defined_names(given), {ast.unparse(node) for node in given.body}
    kept: list[ast.stmt] = []
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and _defines(node, row["entry_point"]):
            kept.append(_without_docstring(node))
        elif not (_names(node) <= known and _names(node)) and ast.unparse(node) not in texts:
            kept.append(node)
    return _source(kept)


def _names(node: ast.stmt) -> frozenset[str]:
    return defined_names(ast.Module(body=[node], type_ignores=[]))


def _without_docstring(node: ast.FunctionDef) -> ast.FunctionDef:
    if ast.get_docstring(node) is not None and len(node.body) > 1:
        node.body = node.body[1:]
    return node


def program(row: Mapping[str, Any], solution: str) -> str:
    """The module that a solution's process loads: what is given, the solution, the set-up.

    Set-up code that does more than import comes last, as in MBPP: it may use the solution.
    """
    setup = str(row["setup"])
    imports_only = all(
        isinstance(node, ast.Import | ast.ImportFrom) for node in parse_quietly(setup).body
    )
    parts = [prelude(row), solution]
    parts.insert(0, setup) if imports_only else parts.append(setup)
    text = "\n".join(parts)
    future = dict.fromkeys(_FUTURE.findall(text))
    # A future import is only legal at the top of a module, wherever the parts had theirs.
    return "\n".join([*future, _FUTURE.sub("", text)])


@lru_cache(maxsize=4096)
def _checks(tests: tuple[str, ...], entry_point: str) -> tuple[Check, ...]:
    return split_tests(tests, entry_point)


def checks_of(example: Example) -> tuple[Check, ...]:
    """The example's tests taken apart."""
    return _checks(tuple(example.fields["tests"]), example.fields["entry_point"])


def function_prompt(example: Example, shown_tests: int) -> str:
    """The user message: the task, the code that is given, tests, and the form of the answer."""
    row = example.fields
    is_code = prompt_code(row) is not None
    ask = "Answer with the whole function in one ```python block."
    parts: list[str] = []
    if is_code or row["given"]:
        code = row["given"] or row["prompt"]
        if row["given"] and prelude(row):
            code = f"{prelude(row)}\n\n{code}"
        if not is_code and row["prompt"].strip():
            parts.append(row["prompt"].strip())
        parts.append(f"Complete this function. {ask}\n\n```python\n{code.strip(chr(10))}\n```")
    else:
        parts.append(row["prompt"].strip())
        if row["prelude"]:
            parts.append(f"It may use:\n```python\n{row['prelude'].strip()}\n```")
    tests = _shown(example, shown_tests)
    if tests:
        parts.append("It must pass:\n" + "\n".join(tests))
    if not (is_code or row["given"]):
        name = row["signature"].strip().rstrip(":") or f"def {row['entry_point']}"
        parts.append(f"Write `{name}`. {ask}")
    return "\n\n".join(parts)


def _shown(example: Example, count: int) -> list[str]:
    """The first tests that aren't too long, unless the prompt has examples of its own."""
    row = example.fields
    if ">>>" in (row["given"] or row["prompt"]):
        return []
    texts = [
        check.text
        for check in checks_of(example)
        if isinstance(check, SplitCheck) and len(check.text) <= _LONGEST_SHOWN
    ]
    return texts[:count]


def visible_tests(example: Example, shown_tests: int) -> tuple[set[str], set[str]]:
    """What a prompt gives away: texts of the tests it shows, and calls in its doctests."""
    row = example.fields
    parser = doctest.DocTestParser()
    calls: set[str] = set()
    try:
        examples = parser.get_examples(f"{row['prompt']}\n{row['given']}")
    except ValueError:
        examples = []
    for one in examples:
        try:
            calls.add(ast.unparse(parse_quietly(one.source)))
        except SyntaxError:
            continue
    return set(_shown(example, shown_tests)), calls
