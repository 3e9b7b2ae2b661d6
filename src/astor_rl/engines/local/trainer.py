"""The RL loop: plan, sample and score, observe, update, observe, record.

`LocalTrainer.step` is the whole of a step, top to bottom. Everything it needs comes in through
the constructor; nothing reaches back into it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from astor_rl.checks import check_keys
from astor_rl.config import RunConfig
from astor_rl.coordinator import Coordinator
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.rewards import RewardWorker, Verdicts
from astor_rl.engines.local.update import Group, Updater, UpdateResult
from astor_rl.engines.preparation import PreparedTask, difficulties, task_specs
from astor_rl.engines.shared import now
from astor_rl.plan import GroupOutcome, PlanItem, StepPlan, UpdateStats
from astor_rl.rollout.base import Request, Sampler
from astor_rl.schedule.baselines.registry import FILTERING
from astor_rl.types import Example, Rollout, Score

_PARTS = ("steps_done", "tokens_sampled", "updater", "coordinator")
"""Of the trainer's state."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step leaves behind, for logs and the console (rank 0's view of all ranks)."""

    step: int
    plan: StepPlan
    metrics: Mapping[str, float]
    samples: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    tokens_sampled: int
    """Completion tokens of this step and of all before it."""


def build_coordinator(config: RunConfig, tasks: Sequence[PreparedTask]) -> Coordinator:
    """The coordinator of a run's config and training examples."""
    return Coordinator(
        task_specs(
            config,
            {task.name: tuple(example.key for example in task.train) for task in tasks},
            {task.name: difficulties(task.train) for task in tasks},
        ),
        prompts_per_step=config.prompts_per_step,
        options=config.coordinator_options(),
        seed=config.seed,
        refills=True,
    )


def check_state(state: Mapping[str, Any], config: RunConfig, tasks: Sequence[PreparedTask]) -> None:
    """Refuse a `LocalTrainer.state_dict()` of other tasks, prompts or options; needs no policy.

    Raises:
        StateError: it doesn't fit.
    """
    check_keys("the trainer", state, _PARTS)
    saved = state["coordinator"]
    check_keys("the tasks", saved["tasks"], [task.name for task in tasks])
    build_coordinator(config, tasks).load_state_dict(saved)


class LocalTrainer:
    """One RL run on one machine.

    Args:
        config: the run.
        tasks: the tasks with their examples.
        policy: the model being trained, with its reference.
        sampler: samples with its own copy of the weights.
        rewards: scores groups in the background.
        world: this process among the others.
    """

    def __init__(
        self,
        config: RunConfig,
        tasks: Sequence[PreparedTask],
        policy: Policy,
        *,
        sampler: Sampler,
        rewards: RewardWorker,
        world: World,
    ) -> None:
        self._config = config
        self._tasks = {task.name: task for task in tasks}
        self._examples: dict[tuple[str, str], Example] = {
            (task.name, example.key): example for task in tasks for example in task.train
        }
        self._policy = policy
        self._sampler = sampler
        self._rewards = rewards
        self._world = world
        self._updater = Updater(policy, config, task_names=list(self._tasks), world=world)
        self._coordinator = build_coordinator(config, tasks) if world.is_main else None
        self.steps_done = 0
        self.tokens_sampled = 0

    def step(self) -> StepRecord:
        """Train on one batch. Every rank calls it; every rank gets the record."""
        clock = _Clock(self._world.device)
        revision = self.steps_done

        plan = self._plan(revision)
        clock.lap("coordination")

        groups = self._sample_and_score(plan, clock)

        self._observe_groups(plan, groups)
        refills, trained = self._refill(plan, groups, clock)
        clock.lap("coordination")

        update = self._updater.update(trained, probe=plan.probe, step=revision)
        clock.lap("update")

        coordination = self._observe_update([plan, *refills], update)
        clock.lap("coordination")

        self.steps_done += 1
        self._policy.update_sampler(self._sampler, revision=self.steps_done)
        clock.lap("sync")

        plan = _with_refills(plan, refills, trained=len(trained), sampled=len(groups))
        return self._record(plan, groups, update, coordination, clock)

    def _plan(self, revision: int, need: Mapping[str, int] | None = None) -> StepPlan:
        plan = self._coordinator.plan(revision=revision, need=need) if self._coordinator else None
        return self._world.broadcast(plan)

    def _refill(
        self, plan: StepPlan, groups: list[Group], clock: _Clock
    ) -> tuple[list[StepPlan], list[Group]]:
        """Replace the groups that the schedule refuses, if it is one that does.

        Returns:
            The refills' plans, and the groups to train on. `groups` gets all that were sampled.
            Where every group was refused there are none of these, and no gradient in the step.
        """
        coordinator = self._coordinator
        if coordinator is None or self._config.schedule.method not in FILTERING:
            return [], list(groups)
        plans, parts = [plan], [list(groups)]
        while need := coordinator.shortfall([each.id for each in plans]):
            clock.lap("coordination")
            refill = self._plan(plan.revision, need)
            part = self._sample_and_score(refill, clock, attempt=len(plans))
            self._observe_groups(refill, part)
            plans.append(refill)
            parts.append(part)
            groups += part
        kept = [
            group
            for each, part in zip(plans, parts, strict=True)
            for group in part
            if group.item.slot in coordinator.accepted(each.id)
        ]
        return plans[1:], kept

    def _sample_and_score(self, plan: StepPlan, clock: _Clock, *, attempt: int = 0) -> list[Group]:
        """This rank's groups of the plan, sampled and judged; judging overlaps sampling."""
        items = {item.slot: item for item in self._world.mine(plan.items)}
        requests = [self._request(plan, item, attempt) for item in items.values()]
        rollouts: dict[int, list[Rollout]] = defaultdict(list)
        verdicts: dict[int, Future[Verdicts]] = {}
        for slot, rollout in self._sampler.sample(requests):
            rollouts[slot].append(rollout)
            item = items[slot]
            if len(rollouts[slot]) == item.num_generations:
                rollouts[slot].sort(key=lambda one: one.index)
                verdicts[slot] = self._rewards.submit(
                    item.task, self._examples[item.task, item.key], rollouts[slot]
                )
        clock.lap("rollout")
        groups = [
            Group(item, tuple(rollouts[slot]), tuple(verdicts[slot].result()))
            for slot, item in items.items()
        ]
        clock.lap("reward")
        return groups

    def _request(self, plan: StepPlan, item: PlanItem, attempt: int) -> Request:
        messages, ids = self._tasks[item.task].prompts[item.key]
        # A function of the plan alone, so that a resumed run samples what the first would have.
        # A trailing 0 changes no SeedSequence: only refills draw from streams of their own.
        seed = np.random.SeedSequence((self._config.seed, plan.revision, item.slot, attempt))
        return Request(
            id=item.slot,
            messages=messages,
            prompt_ids=ids,
            num_generations=item.num_generations,
            max_tokens=item.max_tokens,
            seed=int(seed.generate_state(1, np.uint64)[0] >> 1),
            temperature=self._config.temperature,
        )

    def _observe_groups(self, plan: StepPlan, groups: Sequence[Group]) -> None:
        mine = [group.outcome() for group in groups]
        everyone: list[GroupOutcome] = [g for part in self._world.gather(mine) for g in part]
        if self._coordinator:
            self._coordinator.observe_groups(plan.id, everyone)

    def _observe_update(self, plans: Sequence[StepPlan], update: UpdateResult) -> dict[str, float]:
        if not self._coordinator:
            return {}
        for plan, stats in zip(plans, (update.stats, *[UpdateStats()] * len(plans)), strict=False):
            self._coordinator.observe_update(plan.id, plan.revision + 1, stats)
        return self._coordinator.metrics()

    def _record(
        self,
        plan: StepPlan,
        groups: Sequence[Group],
        update: UpdateResult,
        coordination: Mapping[str, float],
        clock: _Clock,
    ) -> StepRecord:
        everyone = [g for part in self._world.gather(list(groups)) for g in part]
        metrics = {**_reward_metrics(everyone), **update.metrics, **coordination}
        seconds = clock.seconds
        total = sum(seconds.values())
        sampled = sum(len(r.completion_ids) for group in everyone for r in group.rollouts)
        metrics |= {f"time/{name}": value for name, value in seconds.items()}
        metrics |= {f"time_share/{name}": value / total for name, value in seconds.items()}
        metrics |= {"time/step": total, "time/tokens_per_s": sampled / total}
        metrics["tokens/generated"] = sampled
        self.tokens_sampled += sampled
        samples = _samples(everyone, self._examples, limit=self._config.log_completions)
        return StepRecord(
            self.steps_done, plan, metrics, samples, seconds, tokens_sampled=self.tokens_sampled
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on: weights, optimiser, coordinator, position."""
        return {
            "steps_done": self.steps_done,
            "tokens_sampled": self.tokens_sampled,
            "updater": self._updater.state_dict(),
            "coordinator": self._coordinator.state_dict() if self._coordinator else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken.

        Raises:
            StateError: a part is missing or doesn't fit.
        """
        check_keys("the trainer", state, _PARTS)
        self._updater.load_state_dict(state["updater"])
        if self._coordinator:
            self._coordinator.load_state_dict(state["coordinator"])
        self.steps_done = int(state["steps_done"])
        self.tokens_sampled = int(state["tokens_sampled"])
        self._policy.update_sampler(self._sampler, revision=self.steps_done)


def _with_refills(
    plan: StepPlan, refills: Sequence[StepPlan], *, trained: int, sampled: int
) -> StepPlan:
    """The step's plan, its receipt telling of refused groups and of refills, if there were any."""
    if trained == sampled:
        return plan
    extra = sum(len(refill.items) for refill in refills)
    asked = f"{len(refills)} refills of {extra} prompts" if refills else "no refill"
    note = f"{asked} for refused groups; the update has {trained} of {sampled} groups"
    receipt = replace(plan.receipt, notes=(*plan.receipt.notes, note))
    return replace(plan, receipt=receipt)


class _Clock:
    """Wall seconds by part of a step, each with what it gave the device to do."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._last = now(device)

    def lap(self, part: str) -> None:
        ended = now(self._device)
        self.seconds[part] += ended - self._last
        self._last = ended


def _reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    by_task: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_task[group.item.task].append(group)
    metrics: dict[str, float] = {}
    for task, members in by_task.items():
        scores = [v for group in members for v in group.verdicts if isinstance(v, Score)]
        rollouts = [rollout for group in members for rollout in group.rollouts]
        values = {
            "reward/mean": float(np.mean([s.outcome for s in scores])) if scores else np.nan,
            "reward/format": float(np.mean([s.format for s in scores])) if scores else np.nan,
            "batch/groups": len(members),
            "batch/mixed": sum(group.mixed for group in members),
            "rollouts/invalid": len(rollouts) - len(scores),
            "rollouts/truncated": float(np.mean([r.truncated for r in rollouts])),
            "rollouts/length": float(np.mean([len(r.completion_ids) for r in rollouts])),
        }
        metrics |= {f"task/{task}/{name}": value for name, value in values.items()}
    return metrics


def _samples(
    groups: Sequence[Group], examples: Mapping[tuple[str, str], Example], *, limit: int
) -> list[dict[str, Any]]:
    """The best and the worst completion of the first groups of each task, `limit` in all."""
    by_task: dict[str, list[Group]] = defaultdict(list)
    for group in sorted(groups, key=lambda g: g.item.slot):
        by_task[group.item.task].append(group)
    rounds = max((len(members) for members in by_task.values()), default=0)
    turn = [m[i] for i in range(rounds) for m in by_task.values() if i < len(m)]
    chosen: list[dict[str, Any]] = []
    for group in turn:
        judged = [
            (verdict, rollout)
            for verdict, rollout in zip(group.verdicts, group.rollouts, strict=True)
            if isinstance(verdict, Score)
        ]
        if not judged or len(chosen) >= limit:
            continue
        ranked = sorted(judged, key=lambda pair: (pair[0].outcome, pair[0].format))
        for verdict, rollout in ranked[-1:] if len(ranked) == 1 else (ranked[-1], ranked[0]):
            chosen.append(
                {
                    "task": group.item.task,
                    "origin": examples[group.item.task, group.item.key].origin,
                    "prompt": rollout.messages[-1]["content"] if rollout.messages else "",
                    "completion": rollout.text,
                    "outcome": verdict.outcome,
                    "format": verdict.format,
                    "reason": verdict.reason,
                    "finish_reason": rollout.finish_reason,
                }
            )
    return chosen[:limit]
