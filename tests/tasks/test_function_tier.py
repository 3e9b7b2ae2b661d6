from __future__ import annotations

import ast

import pytest

from astor_rl.tasks.function_tier import (
    function_fields,
    gold_code,
    prelude,
    program,
    prompt_code,
    whole_reference,
)

ROW = {
    "prompt": "Do it.",
    "entry_point": "f",
    "reference": "def f(x):\n    return x",
    "tests": ["assert f(1) == 1"],
}


def fields(**change):
    return function_fields({**ROW, **change}, "rows:1")


def test_absent_fields_are_empty():
    row = fields()
    assert {row[name] for name in ("signature", "setup", "prelude", "given")} == {""}


@pytest.mark.parametrize(
    ("prompt", "is_code"),
    [
        ("Write a function f.", False),
        ("def f(x):\n    '''Docs'''\n", True),
        ("import re\n\ndef f(x):\n", True),
        ("f", False),
        ("Write f:", False),
        ("def g(x):\n    pass\n", False),
    ],
)
def test_a_prompt_is_code_when_it_defines_the_entry_point(prompt, is_code):
    assert (prompt_code(fields(prompt=prompt)) is not None) is is_code


def test_the_prelude_is_what_the_prompt_holds_beside_the_function():
    row = fields(prompt="import re\nN = 3\ndef g(): pass\ndef f(x):\n    'D'\n", prelude="M = 1")
    assert prelude(row) == "M = 1\nimport re\nN = 3\n\ndef g():\n    pass"
    assert prelude(fields()) == ""


def test_a_reference_is_the_function_or_the_body_that_completes_the_prompt():
    assert whole_reference(fields()) == ROW["reference"]
    head = "def f(x):\n    'D'\n"
    assert whole_reference(fields(prompt=head, reference="    return x\n")) == (
        f"{head}    return x\n"
    )


def test_the_gold_answer_is_tidy_code():
    row = fields(reference="import  re\ndef f( x ):\n\t'''Docs'''\n\treturn(x) # same\n")
    assert gold_code(row) == "import re\n\ndef f(x):\n    return x"
    only_docs = fields(reference="def f(x):\n    'Docs'")
    assert ast.get_docstring(ast.parse(gold_code(only_docs)).body[0]) == "Docs"


@pytest.mark.parametrize(
    ("setup", "order"),
    [("import re", "setup prelude solution"), ("x = f(1)", "prelude solution setup")],
)
def test_the_order_of_a_program(setup, order):
    row = fields(setup=setup, prelude="PRELUDE = 1")
    text = program(row, "SOLUTION = 2")
    places = {"setup": text.index(setup), "prelude": text.index("P"), "solution": text.index("S")}
    assert " ".join(sorted(places, key=places.__getitem__)) == order


def test_future_imports_move_to_the_top_once():
    future = "from __future__ import annotations"
    text = program(fields(prelude=f"{future}\nimport re"), f"{future}\nx = 1")
    assert text.startswith(future)
    assert text.count(future) == 1
    compile(text, "program", "exec", dont_inherit=True)
