"""The tasks as verl's reward function: a verdict for each completion, judged in sandboxes.

verl calls `compute_score` on its reward workers. Each worker process opens one sandbox pool and
builds every task once, from the exported run.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any

from astor_rl.config import RunConfig, SandboxConfig
from astor_rl.engines.judging import judge
from astor_rl.engines.verl.export import decode, read_run
from astor_rl.errors import AstorError, RewardError
from astor_rl.sandbox.opening import open_pool
from astor_rl.tasks.base import Task
from astor_rl.tasks.registry import make_task
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Example, Invalid, Score


class Judge:
    """The tasks of a run, with the sandboxes of this process.

    Args:
        run: path of the exported run.

    Raises:
        AstorError: the run can't be read, a task can't be built, or no sandbox can be opened.
    """

    def __init__(self, run: str) -> None:
        config, base_dir = read_run(run)
        if str(base_dir) not in sys.path:
            sys.path.append(str(base_dir))  # modules of one's own tasks lie beside the run file
        self._pool = open_pool(_share(config))
        self._tasks: dict[str, Task] = {
            task.name: make_task(task.task, task.options, self._pool) for task in config.tasks
        }
        self._format_weight = config.format_weight

    async def verdict(self, name: str, example: Example, text: str) -> dict[str, Any]:
        """Judge one completion.

        Raises:
            RewardError: there is no such task, or it fails or returns something that is no
                verdict.
        """
        task = self._tasks.get(name)
        if task is None:
            raise RewardError(
                f"no task is named {name!r} (there are: {', '.join(self._tasks)}); the data is of "
                "another run: export it again"
            )
        where = f"task {name!r}, example {example.origin}"
        (found,) = await judge(task, [(example, rollout_of(text))], where=where)
        return self._as_info(found)

    def _as_info(self, verdict: Score | Invalid) -> dict[str, Any]:
        if isinstance(verdict, Invalid):
            return _info(invalid=1, reason=verdict.reason)
        return _info(
            # What verl shows; advantages are made from the parts.
            score=verdict.outcome + self._format_weight * verdict.format,
            acc=float(verdict.outcome),
            outcome=float(verdict.outcome),
            format=float(verdict.format),
            reason=verdict.reason,
        )

    def close(self) -> None:
        """Let the sandboxes go."""
        self._pool.close()


def _info(
    *,
    score: float = 0.0,
    acc: float | None = None,
    outcome: float = 0.0,
    format: float = 0.0,
    invalid: int = 0,
    reason: str = "",
    error: str = "",
) -> dict[str, Any]:
    """A verdict in verl's form, always with the same keys: it refuses rows that differ.

    `acc` is what verl's validation averages; None keeps an unjudged rollout out of it.
    """
    return {
        "score": score,
        "acc": acc,
        "outcome": outcome,
        "format": format,
        "invalid": invalid,
        "reason": reason,
        "error": error,
    }


def _share(config: RunConfig) -> SandboxConfig:
    """This process's part of a node's cores, where the run leaves the number open."""
    if config.sandbox.workers or config.sandbox.urls:
        return config.sandbox
    cores = len(os.sched_getaffinity(0))
    return config.sandbox.model_copy(
        update={"workers": max(1, cores // config.verl.reward_workers)}
    )


_judges: dict[str, Judge] = {}
_opening = threading.Lock()


def judge_of(run: str) -> Judge:
    """This process's judge; the first call opens it, others wait."""
    with _opening:
        if run not in _judges:
            _judges[run] = Judge(run)
        return _judges[run]


async def compute_score(
    data_source: str, solution_str: str, ground_truth: str, *, run: str, **_: Any
) -> dict[str, Any]:
    """verl's reward function: one completion's verdict.

    What keeps a verdict from being made is returned as `error`, a line for the driver: an
    exception here would only cost the group, unnoticed among verl's logs.

    Args:
        data_source: the task's name.
        solution_str: the completion.
        ground_truth: the example, from `export.encode`.
        run: path of the exported run, from `reward_kwargs`.

    Returns:
        `score` (outcome + format weight x format), its parts `outcome` and `format`, `invalid` (1
        where the verifier failed; the rollout then leaves its group), `acc`, `reason`, `error`.
    """
    try:
        # Opening sandboxes takes a moment and must not hold up the worker's loop.
        ready = await asyncio.to_thread(judge_of, run)
        return await ready.verdict(data_source, decode(ground_truth), solution_str)
    except AstorError as error:
        return _info(invalid=1, error=str(error))
