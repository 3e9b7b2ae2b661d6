from __future__ import annotations

from astor_rl.code.doctests import doctest_calls, summary


def test_only_literal_calls_of_the_function_count() -> None:
    text = """Do it.

    >>> f(1, [2, "a"], k=-3)
    0
    >>> list(f(2)) == [x for x in f(x)]
    True
    >>> mod.f({'a': (1,)})
    >>> g(5); f(*rest); f(**more)
    >>> f(1, [2, "a"], k=-3)
    """
    assert [call.text for call in doctest_calls(text, "f")] == [
        "1, [2, 'a'], k=-3",
        "2",
        "{'a': (1,)}",
    ]
    assert doctest_calls(text, "f")[0].call("g") == "g(1, [2, 'a'], k=-3)"


def test_broken_examples_are_passed_over() -> None:
    assert doctest_calls(">>> f(1", "f") == []
    assert doctest_calls(">>> f(1)\n...bad prompt\n>>>f(2)", "f") == []
    assert doctest_calls("no examples", "f") == []


def test_summary_is_the_first_sentence() -> None:
    assert summary("Return the *n* first items.  More follows.\n\nMore.") == (
        "Return the *n* first items."
    )
    assert summary("Wraps\n    over lines\n\n    >>> f(1)") == "Wraps over lines"
    assert summary("See :func:`itertools.islice`:\n\n>>> f()") == "See `itertools.islice`"
    assert summary(">>> f(1)\n2") == ""
    assert summary("word " * 60) == ""
