"""Parsing in several threads at once."""

from __future__ import annotations

import ast
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from astor_rl import syntax

DEEP = "x = " + "[" * 40 + "]" * 40
FLAT = "\n".join(f"def f{i}(a, b): return a + b * {i}" for i in range(60))


def test_a_parser_that_other_threads_disturb_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython 3.11: "AST constructor recursion depth mismatch", seen with two workers."""
    real, failures = ast.parse, iter([SystemError("depth mismatch")] * 3)

    def disturbed(source: str, mode: str) -> Any:
        for failure in failures:
            raise failure
        return real(source, mode=mode)

    monkeypatch.setattr(ast, "parse", disturbed)
    assert ast.dump(syntax.parse("1 + 1", "eval")) == ast.dump(real("1 + 1", mode="eval"))


def test_a_parser_that_never_works_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: str, mode: str) -> Any:
        raise SystemError("depth mismatch")

    monkeypatch.setattr(ast, "parse", broken)
    with pytest.raises(SystemError):
        syntax.parse("x")


class Yields:
    """Garbage that lets other threads run while it is collected, in the middle of a parse."""

    def __init__(self) -> None:
        self.cycle = self

    def __del__(self) -> None:
        time.sleep(0.0002)


def littering(source: str) -> ast.Module:
    for _ in range(3):
        Yields()
    return syntax.parse(source)


def test_threads_that_parse_at_once_do_not_disturb_each_other() -> None:
    """With `ast.parse` about one in a hundred of these fails on CPython 3.11.7."""
    before = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(littering, [DEEP, FLAT] * 150))
    finally:
        gc.set_threshold(*before)
    assert {len(tree.body) for tree in found} == {1, 60}


def test_what_is_finalised_during_a_parse_may_parse() -> None:
    class Parses:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            done.append(syntax.parse("y = 1"))

    done: list[ast.Module] = []
    before = gc.get_threshold()
    gc.set_threshold(20, 2, 2)
    try:
        for _ in range(50):
            Parses()
            assert len(syntax.parse(FLAT).body) == 60
    finally:
        gc.set_threshold(*before)
    assert done


def test_errors_are_those_of_ast() -> None:
    with pytest.raises(SyntaxError):
        syntax.parse("def")
