from __future__ import annotations

from typing import Any

import pytest

from astor_rl.code.eager import make_eager


def run(source: str, *args: Any) -> Any:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return namespace["f"](*args)


@pytest.mark.parametrize(
    ("source", "args"),
    [
        ("def f(n):\n    for i in range(n):\n        yield i * i\n", (4,)),
        ("def f(n):\n    yield from range(n)\n    yield\n", (3,)),
        ("def f(xs):\n    for x in xs:\n        if x < 0: return\n        yield x\n", ([1, -1],)),
        ("def f(result):\n    yield result\n", (1,)),
        ("def f(xs):\n    def g(x):\n        yield x\n    yield from g(xs)\n", ([1],)),
        ("def f(xs):\n    return map(str, xs)\n", ([1, 2],)),
        ("def f(n):\n    if n:\n        yield n\n        yield from f(n - 1)\n", (3,)),
    ],
)  # fmt: skip
def test_same_items_as_a_list(source: str, args: tuple[Any, ...]) -> None:
    eager = make_eager(source)
    assert eager is not None
    found = run(eager, *args)
    assert type(found) is list
    assert found == list(run(source, *args))


@pytest.mark.parametrize(
    "source",
    [
        "def f(n):\n    x = yield n\n",
        "x = 1\n",
        "def f(:",
        "def f():\n    yield 1\ndef g():\n    pass\n",
    ],
)
def test_what_cannot_be_rewritten_is_none(source: str) -> None:
    assert make_eager(source) is None
