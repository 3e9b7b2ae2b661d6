"""The four tasks as verl's reward: routed by `data_source`, judged in real sandboxes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from astor_rl.config import parse_config
from astor_rl.engines.verl.export import encode
from astor_rl.engines.verl.reward import Judge, compute_score, judge_of
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.tasks.registry import make_task
from astor_rl.types import Example

CODE = "def clip(n):\n    if n > 10:\n        return 10\n    return n\n"
DIFF = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-old = 1\n+new = 2"
ROWS: dict[str, dict[str, Any]] = {
    "io_prediction": {"code": CODE, "entry_point": "clip", "input": "3", "output": "3"},
    "code_generation": {
        "prompt": "Double a number.",
        "entry_point": "double",
        "signature": "def double(n):",
        "reference": "def double(n):\n    return 2 * n\n",
        "tests": ["assert double(2) == 4", "assert double(-771) == -1542"],
    },
    "unit_test_generation": {
        "module": "focal.py",
        "entry_point": "clip",
        "code": CODE,
        "reference_tests": (
            "from focal import *\n\n\ndef test_reference():\n"
            "    assert clip(3) == 3\n    assert clip(30) == 10\n"
        ),
        "mutants": [{"op": "none", "line": 4, "code": CODE.replace("return n\n", "return None\n")}],
        "buggy": CODE.replace("n > 10", "n < 10"),
    },
    "commit_message": {"diff": DIFF, "subject": "Fix the parser"},
}
OWN = """
from astor_rl.tasks.from_reward import RewardTask


def reward(prompts, completions, **_):
    if completions[0] == "raise":
        raise OSError("disk on fire")
    return [None if text == "unjudged" else 0.25 for text in completions]


task = RewardTask(reward, answer_column="answer")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An exported run of the four tasks and one of somebody's own."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "own_verl_task.py").write_text(OWN)
    tasks = [{"name": f"my-{kind}", "task": kind, "source": "jsonl:x"} for kind in ROWS]
    tasks.append({"name": "own", "task": "own_verl_task:task", "source": "jsonl:x"})
    raw = {"model": "m", "engine": "verl", "tasks": tasks, "sandbox": {"workers": 1}}
    config = {**parse_config(raw).resolved()}
    path = folder / "run.json"
    path.write_text(json.dumps({"config": config, "base_dir": str(folder)}))
    yield str(path)
    judge_of(str(path)).close()


def example_of(kind: str) -> Example:
    return make_task(kind, {}, None).example(ROWS[kind], origin=f"{kind}:1")


def judged(run: str, name: str, example: Example, text: str) -> dict[str, Any]:
    return asyncio.run(
        compute_score(
            data_source=name,
            solution_str=text,
            ground_truth=encode(example),
            extra_info={"origin": example.origin},
            run=run,
        )
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    """Sandboxes of the tests' own, for tasks that measure what is the best outcome."""
    with ProcessPool(1) as pool:
        yield pool


@pytest.mark.parametrize("kind", sorted(ROWS))
def test_each_tasks_reference_and_broken_answers_are_told_apart(
    run: str, pool: ProcessPool, kind: str
):
    task, example = make_task(kind, {}, pool), example_of(kind)
    gold = judged(run, f"my-{kind}", example, task.answer(example))
    assert (gold["invalid"], gold["error"]) == (0, "")
    assert gold["outcome"] == pytest.approx(task.ceiling(example))
    assert gold["score"] == pytest.approx(gold["outcome"] + 0.1 * gold["format"])
    for text in task.broken(example).values():
        assert judged(run, f"my-{kind}", example, text)["outcome"] < gold["outcome"]


def own() -> Example:
    return Example("k", {"prompt": "p", "answer": "a"}, "own.jsonl:7", "u")


def test_an_unjudged_completion_is_invalid_and_no_zero(run: str):
    found = judged(run, "own", own(), "unjudged")
    assert (found["invalid"], found["error"], found["acc"]) == (1, "", None)


def test_every_verdict_has_the_same_keys(run: str):
    texts = ("fine", "unjudged", "raise")
    assert len({tuple(judged(run, "own", own(), text)) for text in texts}) == 1


def test_what_a_task_raises_is_a_line_for_the_driver(run: str):
    found = judged(run, "own", own(), "raise")
    assert found["invalid"] == 1
    assert found["error"].startswith("task 'own', example own.jsonl:7: reward raised OSError")
    assert re.search(r"disk on fire at .*own_verl_task\.py:\d+;", found["error"])


def test_a_row_of_another_run_is_a_line_too(run: str):
    found = judged(run, "elsewhere", own(), "x")
    assert "no task is named 'elsewhere'" in found["error"]
    missing = judged("no-such.json", "own", own(), "x")
    assert "every node must see the folder" in missing["error"]


def test_a_process_opens_its_sandboxes_once(run: str):
    async def both() -> list[Judge]:
        return await asyncio.gather(*[asyncio.to_thread(judge_of, run) for _ in range(4)])

    assert len(set(map(id, asyncio.run(both())))) == 1


def test_through_verls_reward_manager(run: str, pool: ProcessPool):
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    import numpy as np
    import torch
    from tensordict import TensorDict
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    from astor_rl.engines.verl.hydra import arguments, compose, overrides

    folder = Path(run).parent
    tasks = [{"name": "own", "task": "own_verl_task:task", "source": "jsonl:x"}]
    config = parse_config({"model": "m", "engine": "verl", "tasks": tasks})
    keys = overrides(config, folder)
    key = "+reward.custom_reward_function.reward_kwargs.run"
    manager_config = compose(arguments({**keys, key: run}))

    class Letters:
        """Enough of a tokenizer: verl decodes the response with it."""

        def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
            return "".join(chr(i) for i in ids.tolist())

    async def verdict(kind: str, text: str) -> dict[str, Any]:
        manager = load_reward_manager(manager_config, Letters())
        example = example_of(kind)
        response = torch.tensor([[ord(letter) for letter in text]])
        tensors = {
            "responses": response,
            "attention_mask": torch.ones(1, 3 + response.shape[1], dtype=torch.int64),
        }
        row = {
            "data_source": f"my-{kind}",
            "reward_model": {"style": "rule", "ground_truth": encode(example)},
            "extra_info": {"origin": example.origin},
            "tool_extra_fields": {},
        }
        columns = {name: np.array([value], dtype=object) for name, value in row.items()}
        data = DataProto(batch=TensorDict(tensors, batch_size=1), non_tensor_batch=columns)
        found: dict[str, Any] = await manager.run_single(data)
        return found

    for kind in ROWS:
        task, example = make_task(kind, {}, pool), example_of(kind)
        gold = asyncio.run(verdict(kind, task.answer(example)))
        assert gold["reward_extra_info"]["outcome"] == pytest.approx(task.ceiling(example))
        assert gold["reward_score"] == gold["reward_extra_info"]["score"]
        wrong = asyncio.run(verdict(kind, "nothing of use"))
        assert wrong["reward_extra_info"]["outcome"] < task.ceiling(example)
        assert wrong["reward_extra_info"]["error"] == ""
