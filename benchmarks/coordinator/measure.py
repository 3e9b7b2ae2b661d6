"""One case: build the coordinator, take steps, weigh what it keeps."""

from __future__ import annotations

import ctypes
import gc
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from astor_rl.coordinator import Coordinator
from astor_rl.plan import GradientProbe, GroupOutcome, StepPlan, UpdateStats
from benchmarks.common import summary
from benchmarks.coordinator.seen import GENERATIONS, REVISION, fresh, state_after

_PARTS: Final = ("plan", "observe_groups", "observe_update")
_SETTLING: Final = 5
"""Steps before those that count; the first visits every task, so that all are measured."""
_TOKENS: Final = 40
"""Tokens of a completion."""
_WEIGHED_MOST: Final = 1_000_000
"""Prompts seen up to which memory is weighed: weighing notes every allocation."""


@dataclass(frozen=True, slots=True)
class Case:
    """One size.

    Attributes:
        prompts: N, of all tasks together.
        tasks: K.
        seen: prompts visited before.
        steps: how many count.
    """

    prompts: int
    tasks: int
    seen: int
    steps: int


def run(case: Case) -> dict[str, Any]:
    """Milliseconds of a step's parts, wall and CPU, and bytes for each prompt seen."""
    rng = np.random.default_rng(0)
    coordinator = fresh(case.prompts, case.tasks)
    empty = _weight(coordinator, coordinator.state_dict())
    state = state_after(coordinator, case.seen, rng)
    weight = None
    if case.seen <= _WEIGHED_MOST:
        weight = (_weight(coordinator, state) - empty) / case.seen
    else:
        coordinator.load_state_dict(state)
    del state
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    watch = _steps(coordinator, case, rng)
    walls, cpus = (
        [sum(parts) for parts in zip(*times.values(), strict=True)]
        for times in (watch.walls, watch.cpus)
    )
    return {
        "prompts": case.prompts,
        "tasks": case.tasks,
        "seen": case.seen,
        "step_ms": summary(walls),
        "step_cpu_ms": summary(cpus),
        "parts_ms": {part: summary(values) for part, values in watch.walls.items()},
        "bytes_per_seen_prompt": weight,
    }


def _weight(coordinator: Coordinator, state: dict[str, Any]) -> int:
    """Bytes that the coordinator holds of a state after it was loaded."""
    tracemalloc.start()
    try:
        coordinator.load_state_dict(state)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


class _Stopwatch:
    """Milliseconds of each part, wall and CPU, a value for each step."""

    def __init__(self) -> None:
        self.walls: dict[str, list[float]] = {part: [] for part in _PARTS}
        self.cpus: dict[str, list[float]] = {part: [] for part in _PARTS}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what happens inside, without collecting garbage of the benchmark's own making."""
        gc.collect()
        gc.disable()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.walls[name].append((time.perf_counter() - wall) * 1e3)
        self.cpus[name].append((time.process_time() - cpu) * 1e3)
        gc.enable()


def _steps(coordinator: Coordinator, case: Case, rng: np.random.Generator) -> _Stopwatch:
    """The steps that count, after those that settle the utilities."""
    # Rates of success differ between tasks, so that utilities do.
    rate = dict(zip(coordinator.snapshot.tasks, rng.uniform(0.02, 0.98, case.tasks), strict=True))
    every_task = dict.fromkeys(rate, min(2, case.prompts // case.tasks))
    for number in range(_SETTLING + case.steps):
        if number in (0, _SETTLING):
            watch = _Stopwatch()
        revision = REVISION + number
        with watch.part("plan"):
            plan = coordinator.plan(revision=revision, need=None if number else every_task)
        groups = [
            GroupOutcome(
                item.slot,
                tuple((rng.random(GENERATIONS) < rate[item.task]).astype(float).tolist()),
                tokens=GENERATIONS * _TOKENS,
            )
            for item in plan.items
        ]
        stats = _stats(plan, rng)
        with watch.part("observe_groups"):
            coordinator.observe_groups(plan.id, groups)
        with watch.part("observe_update"):
            coordinator.observe_update(plan.id, revision + 1, stats)
    return watch


def _stats(plan: StepPlan, rng: np.random.Generator) -> UpdateStats:
    """What a trainer would report of the plan's update, the gradient probe's Gram included."""
    names = sorted({item.task for item in plan.items})
    share = dict.fromkeys(names, 1 / len(names))
    halves = {(item.task, item.half) for item in plan.items}
    both = tuple(name for name in names if {(name, 0), (name, 1)} <= halves)
    probe = None
    if plan.probe and both:
        gradients = rng.normal(size=(2 * len(both), 64)) + rng.normal(size=64)
        probe = GradientProbe(both, gradients @ gradients.T, (2,) * (2 * len(both)))
    return UpdateStats(
        kl=dict.fromkeys(names, 0.01),
        loss_tokens=dict.fromkeys(names, GENERATIONS * _TOKENS),
        policy_loss_share=share,
        kl_loss_share=share,
        nonzero_groups=dict.fromkeys(names, 1),
        probe=probe,
    )
