from __future__ import annotations

import ast

from hypothesis import given
from hypothesis import strategies as st

from astor_rl.code.normalize import clone, parse_source, strip_annotations, strip_docstrings


def stripped(source: str) -> str:
    tree = parse_source(source)
    assert tree is not None
    strip_docstrings(tree)
    strip_annotations(tree)
    return ast.unparse(ast.fix_missing_locations(tree))


def test_docstrings_and_rich_annotations_go() -> None:
    source = '''
"""Module."""
from typing import Sequence

def f(a: Sequence[int], b: int = 2) -> "Sequence[int]":
    """Doc."""
    x: "Sequence" = a  # a comment
    return x[:b]
'''
    assert stripped(source) == (
        "from typing import Sequence\n\ndef f(a, b: int=2):\n    x = a\n    return x[:b]"
    )


def test_an_emptied_body_still_parses() -> None:
    assert stripped('class A:\n    """Doc."""\n') == "class A:\n    pass"
    assert stripped("def f():\n    x: list[T]\n    return 1") == "def f():\n    pass\n    return 1"


def test_what_is_not_python_is_none() -> None:
    assert parse_source("def f(:") is None
    assert parse_source("x = \0") is None


@given(st.sampled_from(["f(x)[1:]", "lambda *a, k=1: a", "[i for i in x if i]", "f'{x!r:>3}'"]))
def test_a_clone_is_equal_and_apart(source: str) -> None:
    tree = ast.parse(source)
    copy = clone(tree)
    assert ast.dump(tree, include_attributes=True) == ast.dump(copy, include_attributes=True)
    copy.body.clear()
    assert tree.body
