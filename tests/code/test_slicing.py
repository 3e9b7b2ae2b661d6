from __future__ import annotations

from typing import Any

import pytest

from astor_rl.code.slicing import FunctionSlice, ModuleSlicer

MODULE = '''
"""Docs."""
import math, os
import numpy as np
from itertools import chain as glue
from typing import Sequence
from . import sibling

LIMIT = 3
PAIR = LIMIT, math.pi
T = TypeVar("T")

def helper(x: Sequence[T]) -> T:
    """Help."""
    return x[:LIMIT]

def entry(a: Sequence[int], *rest, b: int = LIMIT, **more) -> list:
    """Do it.

    >>> entry([1])
    [1]
    """
    # a comment
    return list(glue(helper(a), rest))

def reads_files(p):
    return os.path.exists(p)

def uses_numpy(p):
    return np.zeros(p)

def uses_sibling(p):
    return sibling.f(p)

def prints(p):
    print(p)

def looks_at_time(d):
    return d.now()

def counts():
    global LIMIT
    LIMIT += 1

async def later(x):
    return x

class Tools:
    @staticmethod
    def double(x):
        return 2 * x

    def method(self):
        return 1
'''


def slices(source: str = MODULE) -> dict[str, FunctionSlice]:
    return {part.qualname: part for part in ModuleSlicer(source).slices()}


def run(part: FunctionSlice) -> Any:
    namespace: dict[str, Any] = {}
    exec(part.code, namespace)
    return namespace[part.name]


def test_only_what_can_stand_alone_is_sliced() -> None:
    assert set(slices()) == {"helper", "entry", "Tools.double"}


def test_a_slice_brings_what_it_needs_and_nothing_more() -> None:
    part = slices()["entry"]
    assert part.code == (
        "from itertools import chain as glue\n\nLIMIT = 3\n\n"
        "def helper(x):\n    return x[:LIMIT]\n\n"
        "def entry(a, *rest, b: int=LIMIT, **more) -> list:\n"
        "    return list(glue(helper(a), rest))"
    )
    assert part.helpers == ("helper",)
    assert part.docstring.startswith("Do it.")
    assert part.line == MODULE[: MODULE.index("def entry")].count("\n") + 1
    assert run(part)([1, 2, 3, 4], 9) == [1, 2, 3, 9]


def test_parameters_keep_what_stripping_lost() -> None:
    found = [(p.name, p.kind, p.default, p.annotation) for p in slices()["entry"].parameters]
    assert found == [
        ("a", "positional", "", "Sequence[int]"),
        ("rest", "args", "", ""),
        ("b", "keyword", "LIMIT", "int"),
        ("more", "kwargs", "", ""),
    ]


def test_a_static_method_becomes_a_function() -> None:
    assert run(slices()["Tools.double"])(4) == 8


@pytest.mark.parametrize(
    "body",
    [
        "return open(x)",
        "return eval(x)",
        "return x.__class__.__subclasses__()",
        "import os\n    return os.getcwd()",
        "return undefined(x)",
        "return random.random()",
        "return time.time()",
        "return socket.socket()",
        "return hash(x)",
    ],
)
def test_what_reaches_outside_is_refused(body: str) -> None:
    source = f"import random, time, socket\n\ndef f(x):\n    {body}\n"
    assert slices(source) == {}


def test_a_refused_constant_refuses_its_users() -> None:
    assert slices("X = open('f')\n\ndef f(a):\n    return X + a\n") == {}


def test_head_lines_count_decorators() -> None:
    part = slices("from functools import lru_cache\n\n@lru_cache\ndef f(x):\n    return x\n")["f"]
    assert part.head_lines == 2
    assert part.function.splitlines()[2] == "    return x"


def test_a_generator_is_told_from_a_function_with_one_inside() -> None:
    found = slices(
        "def g(n):\n    yield n\n\ndef h(n):\n    def inner():\n        yield n\n    return inner\n"
    )
    assert found["g"].is_generator
    assert not found["h"].is_generator


def test_long_slices_are_left_out() -> None:
    source = "def f(x):\n" + "    x += 1\n" * 50 + "    return x\n"
    assert not list(ModuleSlicer(source, max_chars=100).slices())


def test_source_that_does_not_parse_has_no_functions() -> None:
    assert slices("def f(:") == {}
