"""Harness of `CallJob`: load the code as a module, evaluate expressions in it one by one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside import modules
from astor_rl.sandbox.inside.protocol import END

MODULE = "solution"

_encode, _load, _describe = codec.encode, modules.load, modules.describe
_set_recursion_limit, _recursion_limit = sys.setrecursionlimit, sys.getrecursionlimit()


def run(job: Mapping[str, Any], output_limit: int) -> Iterator[list[Any]]:
    """One message: `[END, status, message, [[kind, encoded value, error, text], ...]]`.

    Raises:
        codec.TooLarge: the values are above the limit together.
    """
    yield [END, *_results(job, output_limit)]


def _results(job: Mapping[str, Any], output_limit: int) -> list[Any]:
    """`[status, message, results]`.

    Raises:
        codec.TooLarge: the values are above the limit together.
    """
    module, failure = _load(MODULE, job["code"])
    if module is None:
        return [*failure, []]
    results = []
    left = output_limit
    for call in job["calls"]:
        result = _evaluate(call, module.__dict__, left)
        if result is None:
            return ["memory", f"MemoryError in {call[:80]}", []]
        left -= len(result[1])
        results.append(result)
    return ["ok", "", results]


def _evaluate(call: str, namespace: dict[str, Any], left: int) -> list[Any] | None:
    """One result; None when memory ran out."""
    try:
        value = eval(compile(call, "<call>", "eval"), namespace)
    except MemoryError:
        return None
    except BaseException as error:  # noqa: BLE001 - SystemExit is a result too
        _set_recursion_limit(_recursion_limit)
        return ["raised", b"", *_describe(error)]
    _set_recursion_limit(_recursion_limit)
    try:
        return ["value", _encode(value, left), "", ""]
    except codec.TooLarge:
        raise
    except MemoryError:
        return None
    except BaseException as error:  # noqa: BLE001 - a container that changes while it is read
        return ["raised", b"", *_describe(error)]
