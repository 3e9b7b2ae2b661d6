"""All tasks as one TRL reward function."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from astor_rl.engines.judging import judge
from astor_rl.engines.trl.data import COLUMN, Library
from astor_rl.types import Invalid, Message, Rollout, Score

Verdict = Score | Invalid
Completion = str | list[Message]


class Judge:
    """Scores a batch of rows, each by its own task.

    Args:
        library: the tasks and their examples.
        format_weight: w_f; a rollout's reward is outcome + w_f format.

    Attributes:
        ends: token ids that end a completion; one without is truncated.
        verdicts: of the last batch, in its order.
        tokens: completion tokens of the last batch's rows.
    """

    def __init__(self, library: Library, *, format_weight: float) -> None:
        self._library = library
        self._format_weight = format_weight
        self.ends: Container[int] = ()
        self.verdicts: list[Verdict] = []
        self.tokens: list[int] = []

    async def reward(
        self,
        *,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        log_extra: Callable[[str, list[str]], None],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """TRL's reward function: None where the verifier failed, so that the row leaves its group.

        Raises:
            RewardError: a task failed, or returned what is no verdict; it is named.
        """
        places: list[tuple[str, str]] = [(task, key) for task, key in columns[COLUMN]]
        rollouts = [
            self._rollout(completion, ids)
            for completion, ids in zip(completions, completion_ids, strict=True)
        ]
        members: dict[str, list[int]] = defaultdict(list)
        for place, (task, _) in enumerate(places):
            members[task].append(place)

        async def verdicts_of(task: str, rows: list[int]) -> list[Verdict]:
            keys = [places[row][1] for row in rows]
            return await self._judge(task, keys, [rollouts[row] for row in rows])

        judged = await asyncio.gather(*(verdicts_of(task, rows) for task, rows in members.items()))
        found = {
            row: verdict
            for rows, verdicts in zip(members.values(), judged, strict=True)
            for row, verdict in zip(rows, verdicts, strict=True)
        }
        self.verdicts = [found[row] for row in range(len(places))]
        self.tokens = [len(ids) for ids in completion_ids]
        for task, rows in members.items():
            for name, value in _figures([(found[row], rollouts[row]) for row in rows]).items():
                log_metric(f"task/{task}/{name}", value)
        log_extra("task", [task for task, _ in places])
        log_extra("reason", [verdict.reason for verdict in self.verdicts])
        return [
            None
            if isinstance(verdict, Invalid)
            else verdict.outcome + self._format_weight * verdict.format
            for verdict in self.verdicts
        ]

    async def _judge(self, name: str, keys: list[str], rollouts: list[Rollout]) -> list[Verdict]:
        examples = [self._library.example(name, key) for key in keys]
        pairs = list(zip(examples, rollouts, strict=True))
        return await judge(self._library.tasks[name].task, pairs, where=f"task {name!r}")

    def _rollout(self, completion: Completion, ids: Sequence[int]) -> Rollout:
        """What a task may look at; what TRL doesn't tell is nan or left empty."""
        text = completion if isinstance(completion, str) else completion[-1]["content"]
        return Rollout(
            text=text,
            prompt_ids=(),
            completion_ids=tuple(ids),
            logprobs=(math.nan,) * len(ids),
            loss_mask=(1,) * len(ids),
            revision=0,
            finish_reason="stop" if ids and ids[-1] in self.ends else "length",
            index=0,
        )


def _figures(judged: Sequence[tuple[Verdict, Rollout]]) -> Mapping[str, float]:
    """One task's share of a batch, by the names of docs/metrics.md; means of nothing are absent."""
    scores = [verdict for verdict, _ in judged if isinstance(verdict, Score)]
    figures = {
        "rollouts/invalid": float(len(judged) - len(scores)),
        "rollouts/truncated": float(np.mean([rollout.truncated for _, rollout in judged])),
        "rollouts/length": float(np.mean([len(rollout.completion_ids) for _, rollout in judged])),
    }
    if scores:
        figures["reward/mean"] = float(np.mean([score.outcome for score in scores]))
        figures["reward/format"] = float(np.mean([score.format for score in scores]))
    return figures
