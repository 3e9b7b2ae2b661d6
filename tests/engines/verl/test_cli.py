"""`engine = "verl"` on the command line: one line where it can't run, a command where it can."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INSTALLED = importlib.util.find_spec("verl") is not None


def astor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "astor_rl", *arguments],
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    return line


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    lines = [{"prompt": f"say {n}", "answer": "a"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (tmp_path / "cli_verl_task.py").write_text(
        "from astor_rl.tasks.from_reward import RewardTask\n"
        "task = RewardTask(lambda prompts, completions, **_: [0.5 for _ in completions])\n"
    )
    raw: dict[str, Any] = {
        "model": str(tmp_path / "model"),
        "engine": "verl",
        "lora": {"enabled": False},
        "tasks": [{"name": "own", "task": "cli_verl_task:task", "source": "jsonl:rows.jsonl"}],
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.skipif(INSTALLED, reason="verl is installed here")
@pytest.mark.parametrize("command", ["train", "export-verl"])
def test_without_verl_it_says_what_to_install(run_file: Path, command: str):
    done = astor(command, str(run_file), cwd=run_file.parent)
    assert done.returncode == 1
    assert "needs package 'verl' 0.9.1" in error_of(done)
    assert not (run_file.parent / "runs").exists()


def test_what_verl_cannot_honour_comes_first(run_file: Path):
    done = astor("train", str(run_file), "--set", "warmup.steps=3", cwd=run_file.parent)
    assert done.returncode == 1
    assert "warmup.steps is 3" in error_of(done)


def test_export_is_for_this_engine(run_file: Path):
    done = astor("export-verl", str(run_file), "--set", 'engine="local"', cwd=run_file.parent)
    assert done.returncode == 2
    assert "engine is 'local'" in error_of(done)


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs verl: make test-verl")
def test_the_printed_command_is_whole(run_file: Path, tiny_model: Path):
    arguments = (str(run_file), "--set", f"model={tiny_model}")
    done = astor("export-verl", *arguments, cwd=run_file.parent)
    assert done.returncode == 0, done.stderr
    python, flag, module, *given = shlex.split(done.stdout)
    assert (python, flag, module) == ("python", "-m", "astor_rl.engines.verl")
    from astor_rl.engines.verl.export import read_run
    from astor_rl.engines.verl.hydra import check, compose

    composed = compose(given)
    config, base_dir = read_run(composed.astor.run)
    check(composed, config)
    assert base_dir == run_file.parent
    for key in ("train_files", "val_files"):
        assert Path(composed.data[key][0]).is_file()
    assert Path(composed.actor_rollout_ref.rollout.agent.agent_loop_config_path).is_file()


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="needs verl: make test-verl")
def test_what_a_begun_run_trains_on_is_not_replaced(run_file: Path, tiny_model: Path):
    folder = run_file.parent / "begun"
    given = ("--set", f"model={tiny_model}", "--set", f"output_dir={folder}")
    assert astor("export-verl", str(run_file), *given, cwd=run_file.parent).returncode == 0
    exported = (folder / "verl" / "train.parquet").read_bytes()
    rows = run_file.parent / "rows.jsonl"
    rows.write_text(rows.read_text().replace("say 7", "say seven"))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("1")
    done = astor("export-verl", str(run_file), *given, cwd=run_file.parent)
    assert done.returncode == 1
    assert "task own: its training examples changed since the run began" in error_of(done)
    assert (folder / "verl" / "train.parquet").read_bytes() == exported
