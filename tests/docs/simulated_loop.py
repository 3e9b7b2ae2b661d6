"""The simulated loop whose last receipt docs/getting-started.md reads line by line.

`io` succeeds half of the time, `code` one time in ten, `tests` never; `commits` is learned and soon
solved; `code` and `io` share a gradient direction. docs/own-loop.md explains a loop like it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from astor_rl.coordinator import Coordinator
from astor_rl.plan import GradientProbe, GroupOutcome, TaskSpec, UpdateStats


def run() -> dict[str, Any]:
    """Forty steps. The chances of success, the coordinator and the last plan."""
    rng = np.random.default_rng(0)
    chance = {"io": 0.5, "code": 0.1, "tests": 0.0, "commits": 0.5}
    direction = {name: rng.normal(size=64) for name in chance}
    direction["code"] = direction["code"] + direction["io"]

    def sample_and_judge(item):  # one outcome in [0, 1] for each rollout of a group
        return [float(rng.random() < chance[item.task]) for _ in range(item.num_generations)]

    def train_on(plan):  # mean KL a token by task
        chance["commits"] += (1 - chance["commits"]) / 10
        return {item.task: 0.01 for item in plan.items}

    def gradient_gram(plan):  # inner products of each task's two half-batch policy gradients
        halves = {(item.task, item.half) for item in plan.items}
        names = tuple(name for name in chance if {(name, 0), (name, 1)} <= halves)
        rows = np.array([direction[name] + rng.normal(size=64) for name in names for _ in (0, 1)])
        return GradientProbe(names, rows @ rows.T, groups=(1,) * len(rows))

    tasks = [TaskSpec(name, [f"{name}/{i}" for i in range(500)]) for name in chance]
    coordinator = Coordinator(tasks, prompts_per_step=16, seed=0)
    for revision in range(40):
        plan = coordinator.plan(revision=revision)
        outcomes = [sample_and_judge(item) for item in plan.items]
        groups = [GroupOutcome(slot, tuple(o), tokens=400) for slot, o in enumerate(outcomes)]
        coordinator.observe_groups(plan.id, groups)
        probe = gradient_gram(plan) if plan.probe else None
        stats = UpdateStats(kl=train_on(plan), probe=probe)
        coordinator.observe_update(plan.id, revision + 1, stats)
    return {"chance": chance, "coordinator": coordinator, "plan": plan}
