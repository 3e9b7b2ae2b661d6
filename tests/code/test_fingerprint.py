from __future__ import annotations

import keyword

from hypothesis import given
from hypothesis import strategies as st

from astor_rl.code.fingerprint import code_tokens, fingerprint, function_fingerprints

NAMES = st.from_regex(r"[a-z]{3,8}_", fullmatch=True).filter(lambda n: not keyword.iskeyword(n))
SOURCE = """def {f}({a}, {b}):
    {c} = []
    for {d} in {a}:
        if {d} > {b}:
            {c}.append({d})
    return sum({c})
"""


@given(st.lists(NAMES, min_size=10, max_size=10, unique=True))
def test_names_do_not_matter(names: list[str]) -> None:
    first, second = (
        SOURCE.format(**dict(zip("fabcd", part, strict=True))) for part in (names[:5], names[5:])
    )
    assert fingerprint(first) == fingerprint(second)


def test_comments_docstrings_and_annotations_do_not_matter() -> None:
    plain = "def f(a):\n    return a + 1\n"
    rich = 'def g(x: int) -> int:\n    """Doc."""\n    # why\n    return x + 1\n'
    assert fingerprint(plain) == fingerprint(rich)


def test_what_runs_differently_differs() -> None:
    base = "def f(a, b):\n    return max(a, b)\n"
    others = [
        base.replace("max", "min"),  # a builtin keeps its name
        base.replace("a, b)\n", "b, a)\n", 1).replace("max(a, b)", "max(a, b)", 1),
        base.replace("max(a, b)", "a.pop(b)"),
        base.replace("max(a, b)", "max(a, 1)"),
        base.replace("max(a, b)", "max(a, a)"),
    ]
    assert len({fingerprint(source) for source in [base, *others]}) == len(others) + 1


def test_which_variable_is_which_matters() -> None:
    assert fingerprint("x = a - b\ny = a") != fingerprint("x = a - b\ny = b")


def test_no_shape_for_what_does_not_parse() -> None:
    assert fingerprint("def f(:") is None
    assert fingerprint("") is None
    assert function_fingerprints("def f(:") == {}


def test_functions_are_found_wherever_they_are() -> None:
    source = (
        "class A:\n    def m(self):\n        return 1\ndef f():\n    def g():\n        return 1\n"
    )
    found = function_fingerprints(source)
    assert set(found) == {"m", "f", "g"}
    assert function_fingerprints(source, min_nodes=1000) == {}
    assert found["m"] != found["g"]  # one has a parameter


def test_tokens_leave_out_layout_comments_and_docstrings() -> None:
    source = 'def f(a):\n    """Doc.\n\n    More."""\n    # why\n    return "x"\n'
    assert code_tokens(source) == ["def", "f", "(", "a", ")", ":", "return", '"x"']
    assert code_tokens('"""Module."""\nx = 1') == ["x", "=", "1"]


def test_what_is_not_python_is_split_at_space() -> None:
    assert code_tokens("it's (not code") == ["it's", "(not", "code"]
