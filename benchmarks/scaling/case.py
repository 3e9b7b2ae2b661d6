"""What is simulated: how many tasks, prompts, groups a step, engines, and how stale plans are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.plan import TaskSpec
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.synergy import SynergyOptions
from benchmarks.coordinator.seen import Keys

GENERATIONS: Final = 8


PROBE_EVERY: Final = 4
"""Steps from one Gram to the next: twice as often as by default."""


@dataclass(frozen=True, slots=True)
class Case:
    """One size.

    Attributes:
        tasks: K.
        prompts: N, of all tasks together.
        groups: B, groups a step.
        engines: how many the groups of a plan are dealt to; one message each way per engine with
            work, so beyond B engines nothing changes.
        staleness: plans that are being rolled out while one is trained on.
        steps: how many are measured.
        synergy: whether gradients are probed, every `PROBE_EVERY` steps.
    """

    tasks: int
    prompts: int
    groups: int
    engines: int
    staleness: int
    steps: int
    synergy: bool = True


def coordinator(case: Case) -> Coordinator:
    """A fresh coordinator of the case's size, whose warm-up ends after a few steps."""
    return Coordinator(
        [
            TaskSpec(f"task-{k}", Keys(case.prompts // case.tasks), num_generations=GENERATIONS)
            for k in range(case.tasks)
        ],
        prompts_per_step=case.groups,
        options=CoordinatorOptions(
            schedule=ScheduleOptions(warmup_steps=2, min_groups=2),
            synergy=SynergyOptions(enabled=case.synergy, every=PROBE_EVERY),
        ),
    )
