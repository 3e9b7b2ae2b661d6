from __future__ import annotations

import asyncio
import runpy
from dataclasses import replace

import numpy as np
import pytest

from astor_rl.errors import ConfigError, DataError, RewardError
from astor_rl.tasks.base import Task
from astor_rl.tasks.from_reward import RewardTask, from_reward
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid, Score


def length_reward(prompts, completions, target, **columns):
    """A TRL-style reward with a column of its own."""
    return [
        None if wanted is None else float(len(text) == wanted)
        for text, wanted in zip(completions, target, strict=True)
    ]


def score(task, rows, texts):
    pairs = [
        (task.example(row, origin=f"rows:{n}"), rollout_of(text))
        for n, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    return asyncio.run(task.score(pairs))


def test_columns_arrive_by_name_and_none_is_invalid():
    task = from_reward(length_reward)
    assert isinstance(task, Task)
    assert task.kind == "length_reward"
    rows = [
        {"prompt": "a", "target": 2},
        {"prompt": "b", "target": 3},
        {"prompt": "c", "target": None},
    ]
    scores = score(task, rows, ["xx", "xx", "xx"])
    assert scores[:2] == [Score(1.0, 1.0), Score(0.0, 1.0)]
    assert isinstance(scores[2], Invalid)


def test_prompts_and_completions_have_trls_shapes():
    seen = []

    def reward(prompts, completions, **columns):
        seen.append((prompts, completions, columns))
        return [0.0] * len(completions)

    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    task = from_reward(reward, prompt_column="question")
    score(task, [{"question": "q", "a": 1}, {"question": chat}], ["x", "y"])
    assert seen == [
        (
            ["q", chat],
            ["x", [{"role": "assistant", "content": "y"}]],
            {"a": [1, None]},
        )
    ]
    example = task.example({"question": chat}, origin="rows:0")
    assert task.prompt(example) == chat
    assert task.prompt(task.example({"question": "q"}, origin="rows:0")) == [
        {"role": "user", "content": "q"}
    ]


def test_async_rewards_and_format_functions():
    async def reward(prompts, completions, **columns):
        await asyncio.sleep(0)
        return [0.5] * len(completions)

    def form(prompts, completions, **columns):
        return [float(text.startswith("<")) for text in completions]

    task = from_reward(reward, format_function=form)
    assert score(task, [{"prompt": "a"}] * 2, ["<x", "x"]) == [Score(0.5, 1.0), Score(0.5, 0.0)]


def test_an_object_with_an_async_call_is_awaited():
    class Judge:
        async def __call__(self, prompts, completions, **columns):
            await asyncio.sleep(0)
            return [0.5] * len(completions)

    assert score(from_reward(Judge()), [{"prompt": "a"}], ["x"]) == [Score(0.5, 1.0)]


def test_what_a_source_keeps_beside_the_row_is_a_column_and_no_part_of_the_key():
    seen = []

    def reward(prompts, completions, **columns):
        seen.append(columns)
        return [0.0] * len(completions)

    task = from_reward(reward)
    bare = task.example({"prompt": "a", "n": 1}, origin="r")
    full = replace(task.example({"prompt": "a", "n": 1}, origin="r", unit="u"), difficulty=0.0)
    assert full.key == bare.key
    asyncio.run(task.score([(full, rollout_of("x"))]))
    asyncio.run(task.score([(bare, rollout_of("x"))]))
    assert seen == [{"n": [1], "unit": ["u"], "difficulty": [0.0]}, {"n": [1]}]


def test_a_function_without_a_parameter_for_it_is_not_given_what_it_never_asked_for():
    seen = []

    def with_difficulty(prompts, completions, n, difficulty):
        seen.append((n, difficulty))
        return [0.0]

    def with_neither(prompts, completions, n):
        seen.append((n,))
        return [0.0]

    for function in (with_difficulty, with_neither):
        task = from_reward(function)
        example = task.example({"prompt": "a", "n": 1}, origin="r", unit="u")
        asyncio.run(task.score([(replace(example, difficulty=0.5), rollout_of("x"))]))
    assert seen == [([1], [0.5]), ([1],)]


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_an_array_of_rewards_will_do(kind):
    task = from_reward(lambda prompts, completions: np.array([0, 1], dtype=kind))
    scores = score(task, [{"prompt": p} for p in "ab"], ["x"] * 2)
    assert scores == [Score(0.0, 1.0), Score(1.0, 1.0)]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_of_the_function_names_its_file_and_line(tmp_path, is_async):
    path = tmp_path / "own.py"
    path.write_text(
        "import json\n\n\n"
        f"{'async ' * is_async}def reward(prompts, completions, **columns):\n"
        "    return [json.loads(text) for text in completions]\n"
    )
    names = runpy.run_path(str(path))
    with pytest.raises(RewardError, match=r"mine raised JSONDecodeError: .*None") as found:
        score(from_reward(names["reward"], kind="mine"), [{"prompt": "a"}], ["x"])
    assert f" at {path}:5; return None" in str(found.value)
    assert isinstance(found.value.__cause__, ValueError)


def test_an_exit_of_the_function_is_an_error_like_any():
    def reward(prompts, completions, **columns):
        raise SystemExit(0)

    with pytest.raises(RewardError, match="mine raised SystemExit: 0 at .*test_from_reward"):
        score(from_reward(reward, kind="mine"), [{"prompt": "a"}], ["x"])


def test_errors_raised_on_purpose_keep_their_class():
    def reward(prompts, completions, **columns):
        raise DataError("the dictionary is gone")

    with pytest.raises(DataError, match="^the dictionary is gone$"):
        score(from_reward(reward), [{"prompt": "a"}], ["x"])


def test_rewards_are_mapped_from_their_scale():
    task = from_reward(lambda prompts, completions: [-1.0, 0, 3], outcome=(-1.0, 3.0))
    scores = score(task, [{"prompt": p} for p in "abc"], ["x"] * 3)
    assert [s.outcome for s in scores] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("reward", [1.5, -0.1, float("nan"), "high", [1]])
def test_a_reward_outside_the_scale_names_task_and_example(reward):
    task = from_reward(lambda prompts, completions: [reward], kind="mine")
    with pytest.raises(RewardError, match=r"mine.*rows:0"):
        score(task, [{"prompt": "a"}], ["x"])


@pytest.mark.parametrize("rewards", [[], [1.0, 1.0], None, 1.0, np.array(1.0), np.zeros(2)])
def test_the_wrong_number_of_rewards_is_an_error(rewards):
    task = from_reward(lambda prompts, completions: rewards, kind="mine")
    with pytest.raises(RewardError, match="mine gave .* for 1 completions; it must be a list"):
        score(task, [{"prompt": "a"}], ["x"])


def test_no_pairs_no_call():
    assert score(from_reward(lambda prompts, completions: 1 / 0), [], []) == []


@pytest.mark.parametrize(
    "row", [{}, {"prompt": 1}, {"prompt": ["x"]}, {"prompt": [{"role": "user"}]}]
)
def test_bad_prompts_name_the_row(row):
    with pytest.raises(DataError, match=r"rows:3.*(prompt|content)"):
        from_reward(length_reward).example(row, origin="rows:3")


@pytest.mark.parametrize("outcome", [(1.0, 0.0), (0.0, float("inf")), (0.0, 0.0)])
def test_a_bad_scale_is_an_error(outcome):
    with pytest.raises(ConfigError, match="outcome scale"):
        from_reward(length_reward, outcome=outcome)


def test_without_an_answer_column_there_is_no_reference_answer():
    task = from_reward(length_reward)
    example = task.example({"prompt": "a", "target": 1}, origin="rows:0")
    with pytest.raises(DataError, match="answer_column"):
        task.answer(example)
    with pytest.raises(DataError, match=r"rows:0.*'gold'"):
        from_reward(length_reward, answer_column="gold").example({"prompt": "a"}, origin="rows:0")


def test_it_cannot_be_built_from_options():
    with pytest.raises(ConfigError, match="module:name"):
        RewardTask.from_config({}, None)


def test_one_turn():
    task = from_reward(length_reward)
    example = task.example({"prompt": "a", "target": 1}, origin="rows:0")
    assert asyncio.run(task.respond(example, [])) is None
