from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.tasks.parsing import (
    MAX_CODE_CHARS,
    defined_names,
    fenced,
    fences,
    is_one_python_fence,
    parse_python,
    parse_quietly,
    tagged,
)


def codes(text: str) -> tuple[str, ...]:
    return tuple(b.code for b in fences(text) if b.closed and b.is_python)


def test_blocks_in_order_with_their_language():
    text = "Hi\n```python\na = 1\n```\nand\n```\nb\n```\n```json\n{}\n```"
    assert [(b.language, b.code, b.closed) for b in fences(text)] == [
        ("python", "a = 1\n", True),
        ("", "b\n", True),
        ("json", "{}\n", True),
    ]
    assert [b.is_python for b in fences(text)] == [True, True, False]


def test_an_unclosed_block_is_no_block():
    text = "```python\na = 1\n"
    assert [b.closed for b in fences(text)] == [False]


def test_a_longer_fence_holds_a_shorter_one():
    text = '````python\ns = """\n```\n"""\n````'
    assert codes(text) == ('s = """\n```\n"""\n',)


@pytest.mark.parametrize("closing", ["``", "~~~", "```python", "    ```"])
def test_what_does_not_close_a_fence(closing):
    assert [b.closed for b in fences(f"```python\nx\n{closing}\n")] == [False]


def test_tilde_fences_and_indented_fences_count():
    assert codes("~~~py\nx\n~~~\n  ```Python\ny\n  ```") == ("x\n", "y\n")


def test_inline_backticks_open_nothing():
    assert list(fences("use ```x``` here\n```x``` too")) == []


@pytest.mark.parametrize(
    "line", ["~" * 1_000_000 + "`", "~~~" + " " * 1_000_000 + "`", "`" * 1_000_000 + " ` `"]
)
def test_runaway_fences_are_read_in_linear_time(line):
    # A pattern that backtracks would take hours.
    assert [b.closed for b in fences(line)] == ([False] if line.startswith("~") else [])


def test_runaway_tags_are_read_in_linear_time():
    assert tagged("<a>" * 1_000_000, "a") == ()
    assert tagged("<a>" * 1_000_000 + "x</a>", "a") == ("<a>" * 999_999 + "x",)


def test_the_info_of_a_tilde_fence_may_hold_anything():
    assert [(b.language, b.code) for b in fences("~~~  Py ~ `x`\n1\n~~~")] == [("py", "1\n")]


@given(
    st.text(alphabet=st.characters(codec="ascii", exclude_characters="`~\r\x0b\x0c\x1c\x1d\x1e"))
)
def test_fenced_code_comes_back(code):
    blocks = codes(fenced(code))
    assert len(blocks) == 1
    assert blocks[0].strip("\n") == code.strip("\n")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("```python\nx\n```", True),
        ("Here:\n```python\nx\n```\nDone.", True),
        ("```\nx\n```", False),
        ("```py\nx\n```", False),
        ("```python\nx\n", False),
        ("```python\nx\n```\n```python\ny\n```", False),
        ("x", False),
        ("", False),
    ],
)
def test_the_form_of_code_answers(text, good):
    assert is_one_python_fence(text) is good


@pytest.mark.parametrize(
    "code", ["def", "\x00", "(" * 300, "-" * 20_000 + "1", "x=1\n" * MAX_CODE_CHARS]
)
def test_source_that_cannot_be_parsed_is_none(code):
    assert parse_python(code) is None


def test_odd_escapes_do_not_warn_even_from_threads():
    with ThreadPoolExecutor(4) as pool:
        trees = list(pool.map(parse_quietly, [r"x = '\d'"] * 64))
    assert all(isinstance(tree, ast.Module) for tree in trees)


def test_names_that_a_module_defines():
    code = (
        "import os.path, re as r\nfrom a import b as c, d\ndef f(): inner = 1\nclass K: pass\n"
        "x = y = 1\nz: int = 2\nasync def g(): pass\nif x:\n    hidden = 1"
    )
    assert defined_names(parse_quietly(code)) == set("rcdfKxyzg") | {"os"}


def test_tags():
    assert tagged("<a> 1 </a> <a>2\n3</a><b>4</b>", "a") == ("1", "2\n3")
    assert tagged("<a>1", "a") == ()
