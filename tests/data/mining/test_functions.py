from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.data.mining.functions import MIN_DISTINCT, Subject, candidates, observe
from astor_rl.data.mining.packages import find_package
from astor_rl.sandbox.pool import ProcessPool

GOOD = '''
def clamp(x, low=0, high=9):
    """Keep x between low and high.

    >>> clamp(12)
    9
    """
    return max(low, min(high, x))

def words(text):
    for word in text.split():
        yield word.title()

def is_even(n: int):
    return n % 2 == 0
'''

HOSTILE = """
import os
import random
import sys
import time
import urllib.request
from itertools import count

open("{flag}", "w").write("imported")
EVIL = os.system("touch {flag}")

def writes(n):
    open("{flag}", "w").write("called")
    return n

def uses_evil(n):
    return EVIL + n

def sneaks(n):
    return (lambda: n).__globals__["__builtins__"]["open"]("{flag}", "w")

def prints(n):
    print(n)
    return n + 1

def mutates(items):
    items.append(1)
    return items[0]

def loops(n):
    while True:
        n += 1

def endless(n):
    yield from count(n)

def hangs(n: int):
    return sum(count(n))

def draws(n):
    return random.randint(0, n)

def clock(n):
    return time.time() + n

def fetches(n):
    return urllib.request.urlopen("http://127.0.0.1:9").read()[n]

SEEN = []

def remembers(n: int):
    SEEN.append(n)
    return len(SEEN)

def address(n):
    return repr(object()) * n

def set_order(letters: str):
    return [letter + "!" for letter in set(letters + "xyz")]

def constant(n):
    return 42

def identity(x):
    return x

def objects(n):
    return object()

def exits(n):
    raise SystemExit

def fine(n: int):
    return n * 3 + 1
"""


def observed(folder: Path, sandbox: ProcessPool, seed: int = 0) -> dict[str, Subject]:
    package = find_package(str(folder), base_dir=folder)
    silent = lambda what, done, total: None  # noqa: E731
    found = candidates([package], silent)
    seen = observe(found, sandbox, seed=seed, tries=30, progress=silent)
    return {subject.slice.name: subject for subject in seen}


def test_useful_functions_are_kept_with_true_calls(
    make_package: Callable[..., Path], sandbox: ProcessPool
) -> None:
    found = observed(make_package(good=GOOD), sandbox)
    assert set(found) == {"clamp", "words", "is_even"}
    for subject in found.values():
        namespace: dict[str, object] = {}
        exec(subject.slice.code, namespace)  # written above, by us
        assert len({call.input for call in subject.calls}) == len(subject.calls)
        for call in subject.calls:
            value = eval(f"{subject.slice.name}({call.input})", namespace)
            assert value == ast.literal_eval(call.output)
            assert type(value) is type(ast.literal_eval(call.output))
        assert len({call.output for call in subject.calls}) >= min(2, MIN_DISTINCT)
    assert "12" in {call.input for call in found["clamp"].calls}
    assert found["clamp"].unit == "good.clamp"
    assert "yield" not in found["words"].slice.code


def test_a_hostile_package_runs_in_the_sandbox_only(
    make_package: Callable[..., Path], sandbox: ProcessPool, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    found = observed(make_package(bad=HOSTILE.replace("{flag}", str(flag))), sandbox)
    assert not flag.exists()
    assert set(found) == {"fine"}


def test_a_seed_gives_the_same_calls_whatever_else_is_mined(
    make_package: Callable[..., Path], sandbox: ProcessPool
) -> None:
    folder = make_package(good=GOOD)
    first, again = observed(folder, sandbox), observed(folder, sandbox)
    assert first == again
    assert observed(folder, sandbox, seed=1)["clamp"] != first["clamp"]
    make_package(another="def triple(n: int):\n    return 3 * n\n")
    assert observed(folder, sandbox)["clamp"] == first["clamp"]


@pytest.mark.parametrize("copies", [2])
def test_copies_count_once(
    make_package: Callable[..., Path], sandbox: ProcessPool, copies: int
) -> None:
    source = "def f{n}(a: int):\n    return a * 7\n"
    folder = make_package(**{f"m{n}": source.replace("{n}", str(n)) for n in range(copies)})
    assert set(observed(folder, sandbox)) == {"f0"}
