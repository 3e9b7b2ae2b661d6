"""Tasks that fail, answer too little, or answer nonsense are named in one line."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from astor_rl.engines.judging import judge
from astor_rl.errors import AstorError, RewardError, SandboxError
from astor_rl.tasks.from_reward import from_reward
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid, Score


def ask(returned: Any) -> list[Score | Invalid]:
    """Two rollouts, judged by a task whose `score` returns or raises this."""
    task = from_reward(lambda prompts, completions, **_: [0.5] * len(prompts), kind="some")
    example = task.example({"prompt": "p"}, origin="here")

    async def score(pairs: Any) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    task.score = score  # type: ignore[method-assign]
    pairs = [(example, rollout_of(text)) for text in "ab"]
    return asyncio.run(judge(task, pairs, where="task 'some'"))


def test_verdicts_pass_as_they_are():
    verdicts = [Score(1.0, 0.0), Invalid("the compiler is gone")]
    assert ask(verdicts) is verdicts


@pytest.mark.parametrize(
    ("returned", "kind", "text"),
    [
        (
            OSError("no disk"),
            RewardError,
            f"score() raised OSError: no disk at {__file__}:24; return Invalid(reason)",
        ),
        (SandboxError("it is closed"), SandboxError, "it is closed"),
        ([Score(1.0, 1.0)], RewardError, "score() returned 1 verdicts for 2 rollouts"),
        ([Score(1.0, 1.0), 0.5], RewardError, "score() returned 0.5, not Score or Invalid"),
    ],
)
def test_failures_keep_their_class_and_say_where(returned, kind, text):
    with pytest.raises(AstorError) as found:
        ask(returned)
    assert type(found.value) is kind
    assert str(found.value).startswith(f"task 'some': {text}")
