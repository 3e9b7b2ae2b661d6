"""`python -m benchmarks.scaling`: every case in a process of its own, the JSON line last.

The coordinator's time is measured on the driver while engines answer as fast as they can, so
nothing of it hides behind generation. The share is that time over the step times of `STEP_SECONDS`.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.common import RESULTS, machine, publish, tell, versions
from benchmarks.scaling.case import Case
from benchmarks.scaling.driver import STEP_SECONDS, run
from benchmarks.scaling.engines import FLEETS

_GOAL: Final = 0.02
"""The coordinator's share of a step that is allowed."""


def _cases(steps: int) -> Iterator[Case]:
    """From the paper's step to one of a thousand tasks on ten thousand engines."""
    yield Case(4, 100_000, 128, 8, 0, steps)
    for tasks in (4, 32, 256):
        yield Case(tasks, 1_000_000, 4_096, 1_000, 1, steps)
    for prompts in (100_000, 10_000_000):
        yield Case(32, prompts, 4_096, 1_000, 1, steps)
    for staleness in (0, 2, 4):
        yield Case(32, 1_000_000, 4_096, 1_000, staleness, steps)
    # The moments of synergy are 32 blocks of K x K: docs/scaling.md says where that ends.
    yield Case(1_000, 10_000_000, 4_096, 1_000, 1, steps, synergy=False)
    yield Case(1_000, 10_000_000, 8_192, 10_000, 2, steps, synergy=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? two small cases only")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1, help="that stand for the engines")
    parser.add_argument(
        "--transport",
        choices=[*FLEETS, "all"],
        default="all",
        help="all: Ray where it is installed",
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args(arguments)
    transports = [options.transport]
    if options.transport == "all":
        transports = ["processes", *(["ray"] if importlib.util.find_spec("ray") else [])]
    cases = list(_cases(options.steps))
    if options.quick:
        cases = [Case(4, 1_000, 64, 8, 0, 3), Case(32, 10_000, 256, 256, 2, 3)]
    before = machine()
    # The coordinator's numpy gains nothing from threads, and they would be CPU time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    results = []
    context = multiprocessing.get_context("spawn")
    jobs = [(case, name) for name in transports for case in cases]
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for future in [pool.submit(run, *job, options.processes) for job in jobs]:
            result = future.result()
            results.append(result)
            tell(
                f"{result['transport']}: {result['tasks']} tasks, {result['prompts']} prompts, "
                f"{result['groups']} groups, staleness {result['staleness']}: "
                f"{result['step_ms_mean']:.0f} ms a step, {result['step_cpu_ms_mean']:.0f} of CPU"
            )
    worst = {
        kind: {str(s): max(result[kind][str(s)] for result in results) for s in STEP_SECONDS}
        for kind in ("share", "cpu_share")
    }
    publish(
        {
            **{f"worst_{kind}": shares for kind, shares in worst.items()},
            "goal": _GOAL,
            "seconds_that_meet_goal": max(r["step_ms_mean"] for r in results) / 1e3 / _GOAL,
            "cases": results,
            "settings": {
                "steps": options.steps,
                "processes": options.processes,
                "quick": options.quick,
            },
            "machine": before,
            "versions": versions("astor-rl", "numpy", "ray"),
        },
        options.output,
    )


if __name__ == "__main__":
    main()
