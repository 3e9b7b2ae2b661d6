"""`python -m benchmarks.coordinator`: every size in a process of its own, the JSON line last.

A step is `plan`, `observe_groups` and `observe_update` for 128 prompts of 8 rollouts each. The
prompts seen before the first step are loaded as a state, through `load_state_dict`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks.common import RESULTS, machine, publish, tell, versions
from benchmarks.coordinator.measure import Case, run

_TASKS: Final = (4, 16, 64, 256)
_MOST_PROMPTS: Final = 10_000_000
_GOAL: Final = {"prompts": _MOST_PROMPTS, "tasks": 256, "seen": 1_000_000}


def _cases(steps: int) -> Iterator[Case]:
    """N from 10^3 to 10^7, K from 4 to 256, seen from 10^4 (or half of N) to 10^7."""
    for prompts in (1_000, 10_000, 100_000, 1_000_000):
        for tasks in (_TASKS[0], _TASKS[-1]):
            yield Case(prompts, tasks, min(10_000, prompts // 2), steps)
    for tasks in _TASKS:
        for seen in (10_000, 1_000_000):
            yield Case(_MOST_PROMPTS, tasks, seen, steps)
    yield Case(_MOST_PROMPTS, _TASKS[-1], 100_000, steps)
    yield Case(_MOST_PROMPTS, _TASKS[-1], 10_000_000, steps)


def _found(results: Sequence[dict[str, Any]], **size: int) -> dict[str, Any] | None:
    return next((r for r in results if size.items() <= r.items()), None)


def _median(result: dict[str, Any] | None, name: str) -> float | None:
    return None if result is None else float(result[name]["median"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordinator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? two small sizes only")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS / "coordinator.json")
    options = parser.parse_args(arguments)
    cases = list(_cases(options.steps))
    if options.quick:
        cases = [Case(1_000, 4, 500, 3), Case(10_000, 256, 5_000, 3)]
    before = machine()
    # numpy's linear algebra gains nothing from threads here, and its threads would be CPU time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    results = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for result in pool.map(run, cases):
            results.append(result)
            tell(
                f"{result['prompts']} prompts, {result['tasks']} tasks, {result['seen']} seen: "
                f"{result['step_ms']['median']:.2f} ms a step"
            )
    goal = _found(results, **_GOAL)
    publish(
        {
            "plan_ms_10m_prompts_256_tasks": _median(goal, "step_ms"),
            "plan_cpu_ms_10m_prompts_256_tasks": _median(goal, "step_cpu_ms"),
            "plan_ms_10m_seen": _median(_found(results, seen=_MOST_PROMPTS), "step_ms"),
            "bytes_per_seen_prompt": goal and goal["bytes_per_seen_prompt"],
            "cases": results,
            "settings": {"steps": options.steps, "quick": options.quick},
            "machine": before,
            "versions": versions("astor-rl", "numpy"),
        },
        options.output,
    )


if __name__ == "__main__":
    main()
