"""Whole runs of a tiny model through the command line: killed, stopped, resumed, extended."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astor_rl.report.run_folder import (
    read_evaluations,
    read_events,
    read_metrics,
    read_receipts,
    read_samples,
)

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]
Write = Callable[..., Path]


def finish(process: subprocess.Popen[str], *, code: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a file or folder exists; fails with the output if the process ends first."""
    for _ in range(24_000):
        if path.exists():
            return
        if process.poll() is not None:
            pytest.fail(f"{path.name} never came: {process.communicate()[0]}")
        time.sleep(0.01)
    pytest.fail(f"{path.name} never came")


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what a clock measured."""
    return [
        {key: value for key, value in record.items() if not key.startswith("time")}
        for record in records
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a run folder but who holds it."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): path.read_bytes() for path in found if path.name != "run.lock"}


def assert_same_run(one: Path, other: Path) -> None:
    assert timeless(read_metrics(one)) == timeless(read_metrics(other))
    assert read_receipts(one) == read_receipts(other)
    assert read_samples(one) == read_samples(other)
    assert read_evaluations(one) == read_evaluations(other)
    weights = [load_file(path / "model" / "model.safetensors") for path in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_killed_and_resumed_equals_uninterrupted(
    tiny_run: Write, astor: Start, tmp_path: Path
) -> None:
    """kill -9 in the warm-up, in a step, and between steps: the end is the same bit for bit."""
    changes = {"max_steps": 8, "warmup": {"steps": 6, "batch_size": 4, "save_steps": 2}}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run = tiny_run(**changes, eval={"every": 3}, save_steps=2)
    finish(astor("train", str(run), "--set", f"output_dir={straight}"))
    arguments = ("train", str(run), "--set", f"output_dir={killed}", "--resume")
    marks = (
        killed / "warmup" / "checkpoint-2",
        killed / "checkpoints" / "checkpoint-2",
        killed / "checkpoints" / "checkpoint-6",
    )
    for mark in marks:
        process = astor(*arguments)
        wait_for(mark, process)
        time.sleep(0.03)  # into the step that follows
        process.kill()
        process.communicate()
    finish(astor(*arguments))
    assert_same_run(straight, killed)
    assert len(read_metrics(straight)) == 8
    probes = [r for r in read_metrics(straight) if "time/probe" in r]
    assert probes, "no probe step: the test would not cover synergy's state"


def test_ctrl_c_checkpoints_says_how_to_go_on_and_loses_nothing(
    tiny_run: Write, astor: Start, tmp_path: Path
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    run = tiny_run(max_steps=400, save_steps=1000, eval={"examples": 0})
    process = astor("train", str(run), "--set", f"output_dir={stopped}")
    wait_for(stopped / "receipts.jsonl", process)
    process.send_signal(signal.SIGINT)
    output = finish(process, code=130)
    assert "--resume" in output
    assert "Traceback" not in output
    (checkpoint,) = (stopped / "checkpoints").iterdir()
    done = int(checkpoint.name.partition("-")[2])
    assert 0 < done < 400
    more = ("--set", f"max_steps={done + 2}")
    finish(astor("train", str(run), "--set", f"output_dir={stopped}", *more, "--resume"))
    finish(astor("train", str(run), "--set", f"output_dir={straight}", *more))
    assert_same_run(straight, stopped)


def test_a_finished_run_can_be_extended(tiny_run: Write, astor: Start, tmp_path: Path) -> None:
    run = tiny_run(max_steps=2)
    finish(astor("train", str(run)))
    finish(astor("train", str(run), "--set", "max_steps=3", "--resume"))
    folder = tmp_path / "run"
    assert [record["step"] for record in read_metrics(folder)] == [1, 2, 3]
    assert read_evaluations(folder)["after_rl"]["step"] == 3


def test_a_token_budget_ends_the_run_at_a_step_and_survives_a_kill(
    tiny_run: Write, astor: Start, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run = tiny_run(max_steps=50, max_generated_tokens=600, eval={"every": 3})
    said = finish(astor("train", str(run), "--set", f"output_dir={straight}", "--plain"))
    tokens = [record["tokens/generated"] for record in read_metrics(straight)]
    assert sum(tokens[:-1]) < 600 <= sum(tokens)
    steps = len(tokens)
    assert f"step {steps}/50 | {sum(tokens):,.0f}/600 tokens" in said
    evaluations = read_evaluations(straight)
    looked = {0, *range(3, steps, 3), steps}
    assert {name for name in evaluations if name.startswith("step")} == {
        f"step_{step}" for step in looked
    }
    assert evaluations["after_rl"]["step"] == steps

    arguments = ("train", str(run), "--set", f"output_dir={killed}", "--resume")
    process = astor(*arguments)
    wait_for(killed / "checkpoints" / "checkpoint-2", process)
    process.kill()
    process.communicate()
    finish(astor(*arguments))
    assert_same_run(straight, killed)
    # A larger budget extends it.
    finish(astor(*arguments, "--set", "max_generated_tokens=750"))
    assert len(read_metrics(killed)) > steps


def test_a_run_is_not_overwritten(tiny_run: Write, astor: Start) -> None:
    run = tiny_run(max_steps=1, eval={"examples": 0})
    finish(astor("train", str(run)))
    output = finish(astor("train", str(run)), code=2)
    assert output.splitlines()[-1].startswith("error: output_dir")
    assert "--resume" in output


def test_a_refused_resume_leaves_the_run_as_it_was(
    tiny_run: Write, astor: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = tiny_run(max_steps=2)
    finish(astor("train", str(run)))
    before = files(folder)

    def refusal(*overrides: str) -> str:
        changes = [part for override in overrides for part in ("--set", override)]
        output = finish(astor("train", str(run), "--resume", "--plain", *changes), code=1)
        assert "Traceback" not in output
        assert files(folder) == before
        return output.splitlines()[-1]

    said = refusal("max_steps=1")
    assert said == (
        "error: max_steps is 1 and the run is at step 2 already; raise it, or name another folder"
    )
    said = refusal("max_steps=5", "data.seed=3")
    assert said.startswith("error: data.seed is 3, the run in ")
    said = refusal("max_steps=5", "seed=3", "lora.r=8")
    assert said == (
        f"error: seed is 3, the run in {str(folder)!r} has 0; resume with that or name another "
        "folder"
    )
    # What no key says: found out before anything is evaluated anew, as other samples ask for.
    source = tmp_path / "first.jsonl"
    rows = source.read_text()
    source.write_text("".join(rows.splitlines(keepends=True)[:-9]))
    said = refusal("max_steps=5", "eval.samples=1")
    checkpoint = folder / "checkpoints" / "checkpoint-2"
    assert said.startswith(f"error: checkpoint {str(checkpoint)!r} doesn't fit: prompts of first")
    assert said.endswith(
        "resume with the examples and options it was made with, or name another folder"
    )
    source.write_text(rows)

    finish(astor("train", str(folder / "config.json"), "--resume", "--set", "max_steps=3"))
    (resumed,) = (event for event in read_events(folder) if event["event"] == "resumed")
    assert resumed["changed"] == ["max_steps: 2 -> 3"]


def test_a_checkpoint_of_other_tasks_is_refused_without_advice_for_libraries(
    tiny_run: Write, astor: Start, tmp_path: Path
) -> None:
    finish(astor("train", str(tiny_run(max_steps=1, eval={"examples": 0}))))
    raw = json.loads((tmp_path / "run.json").read_text())
    raw["tasks"][0]["name"] = "renamed"
    raw["output_dir"] = str(tmp_path / "other")
    raw["resume_from_checkpoint"] = str(tmp_path / "run" / "checkpoints" / "checkpoint-1")
    (tmp_path / "run.json").write_text(json.dumps(raw))
    said = finish(astor("train", str(tmp_path / "run.json")), code=1).splitlines()[-1]
    assert "state of the tasks: missing ['renamed'], unknown ['first']; resume with the" in said


def test_wrong_lora_modules_are_found_before_any_work(
    tiny_run: Write, astor: Start, tmp_path: Path
) -> None:
    run = tiny_run(lora={"target_modules": ["foo"]}, warmup={"steps": 2, "batch_size": 4})
    for _ in range(2):  # the second one doesn't find a run in its way
        said = finish(astor("train", str(run), "--plain"), code=1)
        assert "error: LoRA target_modules ['foo']" in said.splitlines()[-1]
        assert "Preparing" not in said
    assert not any((tmp_path / "run" / name).exists() for name in ("eval", "warmup", "base"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks": [{"name": "x", "task": "dense_tasks:nan", "source": "SOURCE"}]}, "nan"),
        ({"model": "no/such-model"}, "no/such-model"),
        ({"max_prompt_length": 3}, "max_prompt_length"),
        ({"max_prompt_length": 400, "max_completion_length": 300}, "the model has 256 positions"),
        ({"prompts_per_step": 100}, "there are 4"),
        ({"report_to": ["mlflow"]}, "pip install mlflow"),
        ({"tasks": [{"name": "x", "task": "dense_tasks:letters", "source": "jsonl:gone"}]}, "gone"),
        ({"tasks": [{"name": "x", "task": "nonsense", "source": "SOURCE"}]}, "nonsense"),
        ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
        (
            {
                "tasks": [
                    {
                        "name": "x",
                        "task": "code_generation",
                        "source": "SOURCE",
                        "options": {"turns": 2},
                    }
                ]
            },
            "turns is 2; the local engine trains on one turn",
        ),
    ],
)
def test_bad_input_is_one_line_and_no_traceback(
    tiny_run: Write, astor: Start, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    text = json.dumps(changes).replace("SOURCE", f"jsonl:{tmp_path}/first.jsonl")
    run = tiny_run(**json.loads(text))
    process = astor("train", str(run))
    output, _ = process.communicate(timeout=120)
    assert process.returncode in {1, 2}, output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert says in errors[0]
    assert "Traceback" not in output


def test_two_processes_run_the_whole_thing(tiny_run: Write, astor: Start, tmp_path: Path) -> None:
    """gloo on two CPU processes: plans from one, groups from both, one run folder."""
    run = tiny_run(
        num_processes=2, max_steps=3, warmup={"steps": 2, "batch_size": 4, "save_steps": 1}
    )
    finish(astor("train", str(run)))
    folder = tmp_path / "run"
    records = read_metrics(folder)
    assert [record["step"] for record in records] == [1, 2, 3]
    assert sum(records[0][f"task/{name}/batch/groups"] for name in ("first", "second")) == 6
    assert "after_rl" in read_evaluations(folder)
    assert (folder / "model" / "model.safetensors").is_file()
