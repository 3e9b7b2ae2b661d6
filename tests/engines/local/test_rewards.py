"""Background scoring: order, failures that name what failed, and a clean end."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.errors import RewardError
from astor_rl.tasks.base import Pair
from astor_rl.tasks.from_reward import RewardTask
from astor_rl.types import Example, Invalid, Rollout, Score

EXAMPLE = Example(key="k" * 32, fields={"prompt": "p"}, origin="rows.jsonl:7", unit="u")


def rollout(text: str, index: int = 0) -> Rollout:
    return Rollout(text, (1,), (2,), (0.0,), (1,), 0, "stop", index)


class _Task(RewardTask):
    """Scores as a test's function says."""

    def __init__(self, verdicts: Any) -> None:
        super().__init__(lambda **_: [])
        self._verdicts = verdicts

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        result = self._verdicts(pairs)
        return await result if asyncio.iscoroutine(result) else result


def test_verdicts_align_with_rollouts() -> None:
    task = _Task(lambda pairs: [Score(float(r.text), 1.0) for _, r in pairs])
    with RewardWorker({"t": task}) as worker:
        futures = [
            worker.submit("t", EXAMPLE, [rollout(str(i / 10)), rollout("1")]) for i in range(5)
        ]
        outcomes = [[v.outcome for v in f.result() if isinstance(v, Score)] for f in futures]
    assert outcomes == [[i / 10, 1.0] for i in range(5)]


def test_groups_are_scored_at_the_same_time() -> None:
    """Each of two groups waits until the other has begun: one after another would hang."""
    begun = asyncio.Barrier(2)

    async def meet(pairs: Sequence[Pair]) -> list[Score | Invalid]:
        await asyncio.wait_for(begun.wait(), 20)
        return [Score(1.0, 1.0) for _ in pairs]

    with RewardWorker({"t": _Task(meet)}) as worker:
        futures = [worker.submit("t", EXAMPLE, [rollout("x")]) for _ in range(2)]
        assert [len(future.result(30)) for future in futures] == [1, 1]


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (lambda pairs: [Score(float("nan"), 1.0)], "outcome reward is nan"),
        (lambda pairs: [Score(1.5, 1.0)], "outcome reward is 1.5"),
        (lambda pairs: [], "0 verdicts for 1 rollouts"),
        (lambda pairs: [0.5], "0.5, not Score or Invalid"),
        (lambda pairs: 1 / 0, "ZeroDivisionError"),
        (lambda pairs: sys.exit(0), "SystemExit"),
    ],
)
def test_a_bad_reward_names_task_and_example(verdicts: Any, says: str) -> None:
    with RewardWorker({"mine": _Task(verdicts)}) as worker:
        future = worker.submit("mine", EXAMPLE, [rollout("x")])
        with pytest.raises(RewardError, match="rows.jsonl:7") as caught:
            future.result()
    assert says in str(caught.value)
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_closing_drops_what_is_under_way_and_ends_the_thread() -> None:
    async def forever(pairs: Sequence[Pair]) -> list[Score | Invalid]:
        await asyncio.Event().wait()
        return []

    before = threading.active_count()
    worker = RewardWorker({"t": _Task(forever)})
    future = worker.submit("t", EXAMPLE, [rollout("x")])
    worker.close()
    worker.close()
    assert future.cancelled()
    assert threading.active_count() == before
