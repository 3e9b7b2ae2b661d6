"""What can be told of an exercise's failed tests: each one alone, and its source.

Only trusted sources are read here; nothing is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from textwrap import dedent

from astor_rl.tasks.parsing import parse_python

Scope = ast.Module | ast.ClassDef


def defined_tests(source: str) -> Iterator[tuple[Scope, ast.FunctionDef]]:
    """The test functions of a file, each with the module or class that it is defined in."""
    module = parse_python(source)
    for scope in [module, *module.body] if module else ():
        if isinstance(scope, Scope):
            for node in scope.body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                    yield scope, node


def only(tests: Mapping[str, str], name: str) -> dict[str, str] | None:
    """Test files with one test left, every line where it was.

    Args:
        tests: all test files, path -> source.
        name: the test's in a verdict, without parameters.

    Returns:
        the files; None if that test isn't defined under its own name (it may be inherited).
    """
    path, wanted = _place(tests, name)
    if all(_name(*found) != wanted for found in defined_tests(tests.get(path, ""))):
        return None
    return {
        one: _without_tests(source, wanted if one == path else "")
        if one.endswith(".py")
        else source
        for one, source in tests.items()
    }


def source_of(tests: Mapping[str, str], name: str) -> str:
    """The lines of a test, its decorators too; empty if it isn't defined under its own name.

    Args:
        tests: all test files, path -> source.
        name: the test's in a verdict, without parameters.
    """
    path, wanted = _place(tests, name)
    source = tests.get(path, "")
    for scope, node in defined_tests(source):
        if _name(scope, node) == wanted:
            return dedent("\n".join(_lines(source)[slice(*_span(node))]))
    return ""


def message_of(tests: Mapping[str, str], name: str, told: str) -> str:
    """A run's message about a test without the test's name; `failed` if it is about another.

    Args:
        tests: all test files, path -> source.
        name: the test's in a verdict, without parameters.
        told: the message, which begins with the test's name, perhaps without the file.
    """
    path, wanted = _place(tests, name)
    test, _, message = told.removeprefix(f"{path}::").partition(": ")
    return message if test.partition("[")[0] == wanted and message else "failed"


def _place(tests: Mapping[str, str], name: str) -> tuple[str, str]:
    """A test's file, and its name there. Verdicts name the file if there are several."""
    if len(tests) == 1:
        return next(iter(tests)), name
    path, _, test = name.partition("::")
    return path, test


def _name(scope: Scope, node: ast.FunctionDef) -> str:
    return f"{scope.name}::{node.name}" if isinstance(scope, ast.ClassDef) else node.name


def _without_tests(source: str, wanted: str) -> str:
    lines = _lines(source)
    for scope, node in defined_tests(source):
        if _name(scope, node) != wanted:
            start, end = _span(node)
            indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
            lines[start:end] = [f"{indent}pass", *[""] * (end - start - 1)]
    return "\n".join(lines)


def _lines(source: str) -> list[str]:
    """As the parser counts them: `splitlines` also splits at form feeds and the like."""
    return source.replace("\r\n", "\n").split("\n")


def _span(node: ast.FunctionDef) -> tuple[int, int]:
    """The first line of a function or its decorators, from 0, and the line after its last."""
    first = min([node.lineno, *(mark.lineno for mark in node.decorator_list)])
    return first - 1, node.end_lineno or node.lineno
