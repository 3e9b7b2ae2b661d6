from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.engines.verl.export import (
    AGENT,
    check_same_examples,
    decode,
    encode,
    read_run,
    write,
)
from astor_rl.errors import ConfigError, DataError, StateError
from astor_rl.sandbox.pool import ProcessPool

FUNCTION = "def double(x):\n    return 2 * x\n"


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    (tmp_path / "letter_tasks.py").write_text(
        "from astor_rl.tasks.from_reward import RewardTask\n"
        "def f(prompts, completions, **_):\n    return [0.5 for _ in completions]\n"
        "task = RewardTask(f, answer_column='answer')\n"
    )
    for name in ("first", "second"):
        lines = [{"prompt": f"{name} {n}", "answer": str(n)} for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    blocks = [
        {"name": name, "task": "letter_tasks:task", "source": f"jsonl:{name}.jsonl"}
        for name in ("first", "second")
    ]
    blocks[1] |= {"num_generations": 3, "max_completion_length": 20}
    return parse_config(
        {
            "model": "m",
            "engine": "verl",
            "prompts_per_step": 8,
            "eval": {"examples": 1, "samples": 2},
            "tasks": blocks,
        }
    )


def exported(config: RunConfig, folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    with ProcessPool(1) as pool:
        tasks = prepare_tasks(config, sandbox=pool, render=lambda messages: (1, 2), base_dir=folder)
    write(folder / "run" / "verl", config, tasks, folder)
    table = pyarrow.parquet.read_table(folder / "run" / "verl" / "train.parquet")
    return table.to_pylist(), tasks


def test_rows_hold_all_a_step_needs(run: RunConfig, tmp_path: Path):
    found, tasks = exported(run, tmp_path)
    examples = [(task, example) for task in tasks for example in task.train]
    assert len(found) == len(examples)
    for row, (task, example) in zip(found, examples, strict=True):
        assert row["data_source"] == task.name
        assert row["extra_info"]["key"] == example.key
        assert decode(row["reward_model"]["ground_truth"]) == example
        assert row["prompt"] == [dict(m) for m in task.prompts[example.key][0]]
        assert row["agent_name"] == AGENT
        size, limit = {"first": (8, 256), "second": (3, 20)}[task.name]
        assert (row["__rollout_n__"], row["max_tokens"]) == (size, limit)


def test_validation_rows_are_sampled_as_evaluation_says(run: RunConfig, tmp_path: Path):
    exported(run, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "run" / "verl" / "validation.parquet")
    assert [row["data_source"] for row in table.to_pylist()] == ["first", "second"]
    assert {row["__rollout_n__"] for row in table.to_pylist()} == {2}


def test_the_run_comes_back(run: RunConfig, tmp_path: Path):
    exported(run, tmp_path)
    config, base_dir = read_run(tmp_path / "run" / "verl" / "run.json")
    assert (config, base_dir) == (run, tmp_path)


def test_other_examples_than_the_exported_ones_are_refused(run: RunConfig, tmp_path: Path):
    folder = tmp_path / "run" / "verl"
    _, (first, second) = exported(run, tmp_path)
    check_same_examples(folder, [first, second])
    fewer = replace(second, train=second.train[3:])
    with pytest.raises(StateError, match=r"task second: .* \(3 gone, 0 new\)"):
        check_same_examples(folder, [first, fewer])
    turned = replace(first, train=first.train[::-1])
    with pytest.raises(StateError, match=r"task first: .* \(in another order\)"):
        check_same_examples(folder, [turned, second])
    (folder / "train.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="train.parquet' can't be read"):
        check_same_examples(folder, [first, second])
    (folder / "train.parquet").unlink()
    check_same_examples(folder, [first, second])


def test_the_same_run_is_exported_the_same(run: RunConfig, tmp_path: Path):
    first, _ = exported(run, tmp_path)
    assert exported(run, tmp_path)[0] == first


def test_too_few_prompts_for_a_batch(run: RunConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match="prompts_per_step is 500 and there are"):
        exported(run.model_copy(update={"prompts_per_step": 500}), tmp_path)


def test_what_is_no_export_is_one_line(tmp_path: Path):
    with pytest.raises(DataError, match="every node must see the folder"):
        read_run(tmp_path / "run.json")
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(DataError, match="can't be read"):
        read_run(tmp_path / "run.json")
    with pytest.raises(DataError, match="holds no example"):
        decode('{"key": 1}')


def test_examples_survive_as_text():
    from astor_rl.types import Example

    example = Example("k", {"code": FUNCTION, "n": [1, None, "é"]}, "x.jsonl:1", "u", 0.25)
    assert decode(encode(example)) == example
