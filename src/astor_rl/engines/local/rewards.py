"""Scores groups in the background, so that rewards overlap generation.

One thread runs an asyncio loop; tasks await the sandbox there while torch samples here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from astor_rl.engines.judging import judge
from astor_rl.tasks.base import Task
from astor_rl.types import Example, Invalid, Rollout, Score

Verdicts = list[Score | Invalid]


class RewardWorker:
    """Submits groups to their tasks and hands back futures. Use as a context manager."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = dict(tasks)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True)
        self._thread.start()

    def submit(self, task: str, example: Example, rollouts: Sequence[Rollout]) -> Future[Verdicts]:
        """Start scoring one group; the future holds one verdict per rollout, in order.

        The future raises `RewardError`, naming the task and the example, when the task returns
        something that is no reward or fails; nothing is skipped silently.
        """
        return asyncio.run_coroutine_threadsafe(self._score(task, example, rollouts), self._loop)

    async def _score(self, name: str, example: Example, rollouts: Sequence[Rollout]) -> Verdicts:
        where = f"task {name!r}, example {example.origin} ({example.key})"
        pairs = [(example, rollout) for rollout in rollouts]
        return await judge(self._tasks[name], pairs, where=where)

    def close(self) -> None:
        """Stop the loop; scores still under way are dropped."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        self._loop.close()

    def _stop(self) -> None:
        pending = asyncio.all_tasks(self._loop)
        for job in pending:
            job.cancel()
        finish = asyncio.gather(*pending, return_exceptions=True)
        finish.add_done_callback(lambda _: self._loop.stop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
