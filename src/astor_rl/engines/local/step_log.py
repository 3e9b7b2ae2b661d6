"""What a step leaves in the run folder and on the screen."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator

from astor_rl.config import RunConfig
from astor_rl.engines.local.trainer import StepRecord
from astor_rl.report.console import Console
from astor_rl.report.run_folder import RunFolder
from astor_rl.report.trackers import Trackers
from astor_rl.report.views import StepView, TaskView

_SHOWN = ("rollout", "reward", "update", "coordination")


class StepLog:
    """Files each step's record and shows it. Does nothing on ranks without a folder.

    Args:
        config: the run.
        folder, console, trackers: where to; None on ranks other than 0.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        folder: RunFolder | None,
        console: Console | None,
        trackers: Trackers | None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._console = console
        self._trackers = trackers
        self._recent: deque[float] = deque(maxlen=16)
        self._told: set[str] = set()

    def add(self, record: StepRecord) -> None:
        """Record one step."""
        if self._folder is None or self._console is None:
            return
        self._folder.append_metrics(record.step, record.metrics)
        self._folder.append_receipt(
            record.step, {"plan": record.plan.id, **record.plan.receipt.as_dict()}
        )
        self._folder.append_samples(record.step, record.samples)
        if self._trackers:
            self._trackers.log(record.step, record.metrics)
        self._recent.append(record.metrics["time/step"])
        self._console.step(self._view(record))
        for name, count in self._newly_unjudged(record):
            self._console.note(
                f"task {name}: {count} rollouts of step {record.step} could not be judged and are "
                f"left out (the first of this session; task/{name}/rollouts/invalid counts them)"
            )

    def _newly_unjudged(self, record: StepRecord) -> Iterator[tuple[str, int]]:
        """Tasks with invalid rollouts that weren't told of yet: the step's line has no room."""
        for task in self._config.tasks:
            count = int(record.metrics.get(f"task/{task.name}/rollouts/invalid", 0))
            if count and task.name not in self._told:
                self._told.add(task.name)
                yield task.name, count

    def _view(self, record: StepRecord) -> StepView:
        metrics = record.metrics
        return StepView(
            step=record.step,
            max_steps=self._config.max_steps,
            tasks=tuple(self._task_view(task.name, record) for task in self._config.tasks),
            phase=record.plan.receipt.phase,
            tokens_per_s=metrics["time/tokens_per_s"],
            seconds_left=self._steps_left(record) * statistics.median(self._recent),
            shares={part: metrics.get(f"time_share/{part}", 0.0) for part in _SHOWN},
            tokens=record.tokens_sampled,
            max_tokens=self._config.max_generated_tokens,
        )

    def _steps_left(self, record: StepRecord) -> float:
        left = float(self._config.max_steps - record.step)
        budget = self._config.max_generated_tokens
        if budget is not None and record.tokens_sampled:
            more = max(0, budget - record.tokens_sampled)
            left = min(left, more / record.tokens_sampled * record.step)
        return left

    @staticmethod
    def _task_view(name: str, record: StepRecord) -> TaskView:
        receipt = record.plan.receipt.tasks[name]

        def metric(short: str) -> float | None:
            return record.metrics.get(f"task/{name}/{short}")

        return TaskView(
            name=name,
            prompts=receipt.prompts,
            quota=receipt.share,
            beta=receipt.beta,
            reward=metric("reward/mean"),
            groups=int(metric("batch/groups") or 0),
            effective_groups=int(metric("batch/mixed") or 0),
            kl=metric("kl"),
            utility=metric("utility"),
            utility_se=metric("utility_se"),
            synergy=metric("synergy"),
            synergy_se=metric("synergy_se"),
        )
