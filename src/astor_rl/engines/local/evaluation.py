"""Held-out evaluation inside a run: which examples, on which rank, and where results go."""

from __future__ import annotations

import random
from collections.abc import Sequence

from astor_rl.config import RunConfig
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.engines.preparation import PreparedTask
from astor_rl.evaluate.heldout import HeldOut, Judged, TaskResult, evaluate, summarise
from astor_rl.report.console import Console
from astor_rl.report.run_folder import RunFolder, read_evaluations
from astor_rl.rollout.base import Sampler
from astor_rl.types import Score

EVALUATION_SEED = 20_260_000
"""Sampled evaluation draws from seeds of its own, the same at every point of a run."""


def held_out(
    tasks: Sequence[PreparedTask], config: RunConfig, *, split: str, examples: int
) -> list[HeldOut]:
    """The evaluation examples of a run: a fixed random choice of each task's split."""
    items: list[HeldOut] = []
    for task in tasks:
        pool = task.split(split)
        count = min(examples, len(pool))
        chosen = random.Random(f"{config.data_seed}:{task.name}:{split}").sample(pool, count)
        limit = task.config.max_completion_length or config.max_completion_length
        for example in chosen:
            messages, ids = task.prompts[example.key]
            items.append(HeldOut(len(items), task.name, example, messages, ids, limit))
    return items


class Evaluation:
    """Evaluates the sampler's current weights and files the results.

    Args:
        config: the run; its `[eval]` section says how much.
        tasks: with their held-out examples.
        sampler: has the weights to evaluate.
        rewards: judges.
        world: every rank evaluates its part.
        folder, console: on rank 0.
    """

    def __init__(
        self,
        config: RunConfig,
        tasks: Sequence[PreparedTask],
        sampler: Sampler,
        rewards: RewardWorker,
        *,
        world: World,
        folder: RunFolder | None,
        console: Console | None,
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._sampler = sampler
        self._rewards = rewards
        self._world = world
        self._folder = folder
        self._console = console

    def run(
        self, name: str, *, step: int | None = None, split: str = "test"
    ) -> dict[str, TaskResult] | None:
        """Evaluate unless the run folder has this evaluation of this step already.

        Args:
            name: names the result file.
            step: RL steps done; None before the first.
            split: `test`, or `validation` for looks during training.

        Returns:
            Results by task, on rank 0; None elsewhere or when there was nothing to do.
        """
        options = self._config.eval
        items = held_out(self._tasks, self._config, split=split, examples=options.examples)
        if not items or self._world.broadcast(self._done(name, step, split)):
            return None
        title = f"Evaluating {name.replace('_', ' ')}"
        if self._console:
            self._console.stage(title, f"{len(items)} {split} examples")

        def progress(done: int, total: int) -> None:
            if self._console:
                self._console.progress(title, done, total)

        mine = evaluate(
            self._sampler,
            self._rewards.submit,
            self._world.mine(items),
            samples=options.samples,
            temperature=options.temperature,
            seed=EVALUATION_SEED,
            progress=progress,
        )
        judged = [one for part in self._world.gather(list(mine)) for one in part]
        if not self._folder or not self._console:
            return None
        judged.sort(key=lambda one: one.item.number)
        results = summarise(judged)
        self._folder.save_evaluation(
            name,
            {task: result.as_dict() for task, result in results.items()},
            step=step,
            settings=options.settings(split),
            samples=[_sample(one) for one in judged],
        )
        self._console.evaluation(name, {t: (r.outcome, r.outcome_se) for t, r in results.items()})
        return results

    def _done(self, name: str, step: int | None, split: str) -> bool | None:
        if self._folder is None:
            return None
        found = read_evaluations(self._folder.path).get(name, {})
        wanted = (step, self._config.eval.settings(split))
        return bool(found) and (found.get("step"), found.get("settings")) == wanted


def _sample(one: Judged) -> dict[str, object]:
    """A line of the sample log: the first completion of an evaluated example."""
    rollout, verdict = one.rollouts[0], one.verdicts[0]
    return {
        "task": one.item.task,
        "origin": one.item.example.origin,
        "prompt": one.item.messages[-1]["content"],
        "completion": rollout.text,
        "outcome": verdict.outcome if isinstance(verdict, Score) else None,
        "format": verdict.format if isinstance(verdict, Score) else None,
        "reason": verdict.reason,
        "finish_reason": rollout.finish_reason,
    }
