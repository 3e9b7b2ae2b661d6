"""Examples ready to train on: what is wrong with them is said with task, key and place."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from astor_rl.config import parse_config
from astor_rl.engines.local.evaluation import held_out
from astor_rl.engines.preparation import PreparedTask, prepare_tasks
from astor_rl.errors import AstorError, ConfigError, DataError
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.protections import GUARANTEES
from astor_rl.tasks.validation import rollout_of

OWN = """
from astor_rl.tasks.from_reward import from_reward

def reward(prompts, completions, difficulty, unit, **columns):
    import late_astor_helper
    return late_astor_helper.rewards(difficulty, unit)

task = from_reward(reward)
"""
Prepare = Callable[..., list[PreparedTask]]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[ProcessPool]:
    with ProcessPool(1, allow_missing=tuple(GUARANTEES)) as pool:
        yield pool


@pytest.fixture
def prepare(tmp_path: Path, sandbox: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """Prepare a run of these tasks, whose files are in `tmp_path`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def run(
        *tasks: dict[str, Any], seed: int = 0, data_seed: int | None = None, **data: Any
    ) -> list[PreparedTask]:
        section = {"validation_share": 0.0, "test_share": 0.0, "seed": data_seed} | data
        config = parse_config({"model": "m", "seed": seed, "tasks": list(tasks), "data": section})
        return prepare_tasks(config, sandbox=sandbox, render=lambda _: (), base_dir=tmp_path)

    return run


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(n: int = 0) -> dict[str, Any]:
    return {"code": f"def f(x):\n    return x + {n}", "input": "1", "output": str(1 + n)}


def block(name: str = "io", **changes: Any) -> dict[str, Any]:
    return {"name": name, "task": "io_prediction", "source": "jsonl:io.jsonl"} | changes


def test_a_wrong_row_is_named_with_its_task_key_and_folder(prepare, tmp_path):
    write(tmp_path / "io.jsonl", row())
    write(tmp_path / "a/train.jsonl", row(1))
    write(tmp_path / "b/train.jsonl", row(2), {"code": "def f(x): pass"})
    place = tmp_path / "b/train.jsonl"
    first = block("first", source="jsonl:a/train.jsonl")
    for second in (
        block("second", source="jsonl:b/train.jsonl"),
        block("second", source="jsonl:b/*.jsonl"),
    ):
        with pytest.raises(DataError) as found:
            prepare(first, second)
        assert str(found.value).startswith(
            f"task 'second', source: {place}:2: field 'input' is missing"
        )
    with pytest.raises(DataError, match=rf"^task 'io', test_source: {place}:2: field 'input' is"):
        prepare(block(test_source="jsonl:b/train.jsonl"))
    with pytest.raises(DataError, match=rf"^task 'io', source: {place}:1: no column 'q'"):
        prepare(block(source="jsonl:b/train.jsonl", columns={"code": "q"}))


@pytest.mark.parametrize("key", ["source", "validation_source", "test_source"])
@pytest.mark.parametrize(
    ("spec", "said"),
    [("jsonl:nope.jsonl", r"no file .*nope\.jsonl"), ("io.jsonl", "'io.jsonl' isn't understood")],
)
def test_a_wrong_source_is_named_with_its_task_and_key(prepare, tmp_path, key, spec, said):
    write(tmp_path / "io.jsonl", row())
    with pytest.raises(AstorError, match=f"^task 'io', {key}: {said}"):
        prepare(block(**{key: spec}))
    with pytest.raises(AstorError, match=rf"^data\.decontaminate: {said}"):
        prepare(block(), decontaminate=[spec])


def test_a_wrong_option_is_named_with_its_block(prepare):
    with pytest.raises(ConfigError, match="^task 'second': option 'direction' of .*'up'"):
        prepare(block("first"), block("second", options={"direction": "up"}))


def test_origins_stay_what_runs_have_stored(prepare, tmp_path):
    write(tmp_path / "a/train.jsonl", row())
    (prepared,) = prepare(block(source="jsonl:a/train.jsonl", options={"direction": "output"}))
    (example,) = prepared.train
    assert example.origin == "train.jsonl:1"
    assert example.key == "042329038a24eccb3172cc0bb04d4c68"


@pytest.mark.parametrize(
    ("shares", "keys"),
    [
        ({"validation_share": 0.999}, "data.validation_share"),
        ({"test_share": 0.999}, "data.test_share"),
    ],
)
@pytest.mark.parametrize(("count", "counted"), [(1, "1 row"), (2, "2 rows")])
def test_rows_that_are_all_held_out(prepare, tmp_path, shares, keys, count, counted):
    write(tmp_path / "io.jsonl", *(row() | {"id": f"f#{n}", "input": str(n)} for n in range(count)))
    with pytest.raises(DataError) as found:
        prepare(block(), **shares)
    assert str(found.value) == (
        f"task 'io': {counted}, all held out for validation or test; lower {keys}"
    )


def test_a_wrong_row_is_said_before_that_all_are_held_out(prepare, tmp_path):
    write(tmp_path / "io.jsonl", {"code": "def f(x): pass"})
    with pytest.raises(DataError, match=r"io\.jsonl:1: field 'input' is missing"):
        prepare(block(), test_share=0.999)


def test_splits_follow_the_seed_unless_they_have_their_own(prepare, tmp_path):
    write(tmp_path / "io.jsonl", *(row(n) | {"id": f"f{n}"} for n in range(40)))

    def test_keys(seed: int, **data: Any) -> set[str]:
        (task,) = prepare(block(), seed=seed, test_share=0.3, **data)
        return {example.key for example in task.test}

    assert test_keys(0) != test_keys(1)
    assert test_keys(0, data_seed=1) == test_keys(1) == test_keys(1, data_seed=1)


def test_what_is_evaluated_follows_the_seed_of_the_data(prepare, tmp_path):
    write(tmp_path / "io.jsonl", row())
    write(tmp_path / "held.jsonl", *(row(n) for n in range(1, 41)))
    source = block(test_source="jsonl:held.jsonl")
    tasks = prepare(source)

    def chosen(seed: int, data_seed: int | None = None) -> list[str]:
        raw = {"model": "m", "seed": seed, "tasks": [source], "data": {"seed": data_seed}}
        found = held_out(tasks, parse_config(raw), split="test", examples=5)
        return [item.example.key for item in found]

    assert chosen(0) != chosen(1)
    assert chosen(0, 1) == chosen(1) == chosen(2, 1)


def test_rows_that_are_partly_held_out_and_dropped(prepare, tmp_path):
    write(tmp_path / "io.jsonl", row())
    write(tmp_path / "held.jsonl", row())
    with pytest.raises(DataError, match=r"no training example is left of 1 \(1 overlaps held-out"):
        prepare(block(test_source="jsonl:held.jsonl"))


def test_a_task_of_ones_own_may_import_its_neighbours_late_and_gets_every_column(prepare, tmp_path):
    (tmp_path / "own_astor_reward.py").write_text(OWN)
    (tmp_path / "late_astor_helper.py").write_text(
        "def rewards(difficulty, unit):\n"
        "    return [float(d == 0.25 and u == 'one') for d, u in zip(difficulty, unit)]\n"
    )
    same = [{"prompt": "p", "difficulty": 0.25, "unit": "one"}, {"prompt": "p", "difficulty": 0.5}]
    write(tmp_path / "own.jsonl", *same)
    (one,) = prepare(block(task="own_astor_reward:task", source="jsonl:own.jsonl"))
    (example,) = one.train
    assert one.dropped == {"repeated": 1}
    (score,) = asyncio.run(one.task.score([(example, rollout_of("x"))]))
    assert score.outcome == 1.0
