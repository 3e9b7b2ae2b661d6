"""One reward function for rows of several tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from astor_rl.engines.trl.data import COLUMN, Library, TaskData
from astor_rl.engines.trl.judge import Judge
from astor_rl.tasks.from_reward import from_reward
from astor_rl.types import Invalid, Score

END = 9


def task(name: str, rewards: dict[str, float | None]) -> TaskData:
    """Rewards a completion by its text; half of that for its form."""
    judged = from_reward(
        lambda prompts, completions, **_: [rewards[c] for c in completions],
        format_function=lambda prompts, completions, **_: [0.5] * len(completions),
        kind=name,
    )
    return TaskData.from_rows(name, judged, [{"prompt": f"{name} {n}"} for n in range(2)])


def ask(
    texts: list[tuple[str, str]], ids: list[list[int]]
) -> tuple[Judge, list[float | None], dict[str, float], dict[str, list[str]]]:
    library = Library([task("one", {"a": 1.0, "b": None}), task("two", {"a": 0.25, "b": 0.0})])
    judge = Judge(library, format_weight=0.2)
    judge.ends = {END}
    metrics: dict[str, float] = {}
    extra: dict[str, list[str]] = {}
    rewards = asyncio.run(
        judge.reward(
            prompts=[None] * len(texts),
            completions=[[{"role": "assistant", "content": text}] for _, text in texts],
            completion_ids=ids,
            log_extra=extra.__setitem__,
            log_metric=metrics.__setitem__,
            trainer_state=None,
            **{COLUMN: [[name, library.tasks[name].examples[0].key] for name, _ in texts]},
        )
    )
    return judge, rewards, metrics, extra


def test_each_row_is_judged_by_its_own_task_in_order():
    texts = [("two", "a"), ("one", "a"), ("two", "b"), ("one", "b")]
    judge, rewards, _, extra = ask(texts, [[1, END], [1, 2, 3], [END], [1]])
    assert rewards == [pytest.approx(0.35), pytest.approx(1.1), pytest.approx(0.1), None]
    assert [type(verdict) for verdict in judge.verdicts] == [Score, Score, Score, Invalid]
    assert judge.tokens == [2, 3, 1, 1]
    assert extra["task"] == ["two", "one", "two", "one"]
    assert extra["reason"][3] == "one gave no reward"


def test_figures_are_by_task_and_leave_out_what_nobody_judged():
    _, _, metrics, _ = ask([("one", "a"), ("one", "b"), ("two", "b")], [[1], [1, 2, END], [END]])
    assert metrics["task/one/reward/mean"] == 1.0
    assert metrics["task/one/reward/format"] == 0.5
    assert metrics["task/one/rollouts/invalid"] == 1
    assert metrics["task/one/rollouts/truncated"] == 0.5
    assert metrics["task/one/rollouts/length"] == 2
    assert metrics["task/two/rollouts/truncated"] == 0
    _, rewards, metrics, _ = ask([("one", "b")], [[1]])
    assert rewards == [None]
    assert "task/one/reward/mean" not in metrics


def test_tasks_see_texts_and_tokens():
    seen: list[Any] = []

    class Look:
        async def score(self, pairs: Any) -> Any:
            seen.extend(rollout for _, rollout in pairs)
            return [Score(0.0, 0.0) for _ in pairs]

    data = task("one", {})
    library = Library([TaskData("one", Look(), data.examples)])  # type: ignore[arg-type]
    judge = Judge(library, format_weight=0.0)
    judge.ends = {END}
    asyncio.run(
        judge.reward(
            completions=["as text", [{"role": "assistant", "content": "as message"}]],
            completion_ids=[[1, 2], [3, END]],
            log_extra=lambda *_: None,
            log_metric=lambda *_: None,
            **{COLUMN: [["one", data.examples[0].key]] * 2},
        )
    )
    assert [rollout.text for rollout in seen] == ["as text", "as message"]
    assert [rollout.finish_reason for rollout in seen] == ["length", "stop"]
    assert seen[1].completion_ids == (3, END)
