"""A toy run for verl on a CPU: four dense tasks, a random two-layer model, Ray with fake GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
LETTERS = {"io": "a", "code": "e", "tests": "s", "commits": "z"}
TASKS = '''
"""Dense rewards: the share of a completion's letters that are the wanted one.

What has a q in it can't be judged.
"""
from astor_rl.tasks.from_reward import RewardTask


def share(prompts, completions, letter, **_):
    return [
        None if "q" in text else text.count(wanted) / max(len(text), 1)
        for text, wanted in zip(completions, letter, strict=True)
    ]


def short(prompts, completions, letter, **_):
    return [float(len(c) <= 4) for c in completions]


letters = RewardTask(share, answer_column="answer", format_function=short)
'''

sys.path.append(str(HERE))  # helper modules have names of their own, and so can be pickled by them


def write_run(folder: Path, model: Path, blocks: dict[str, dict[str, Any]], **changes: Any) -> Path:
    """Write a run file with four dense tasks for verl and their data.

    Args:
        folder: for the file, the data and the run.
        model: a model folder.
        blocks: further keys of a task, by its name.
        changes: other values of the run's keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "letter_tasks.py").write_text(TASKS)
    for name, letter in LETTERS.items():
        rows = [
            {"prompt": f"{word} {other} {name}", "letter": letter, "answer": letter * 3}
            for word in ("say", "give", "write", "print", "type", "put", "name", "show")
            for other in ("one", "two", "more", "some", "few")
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw: dict[str, Any] = {
        "model": str(model),
        "engine": "verl",
        "output_dir": str(folder / "run"),
        "dtype": "float32",
        "max_steps": 2,
        "save_steps": 1,
        "prompts_per_step": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_prompt_length": 40,
        "micro_batch_tokens": 160,
        "learning_rate": 0.01,
        "beta": 0.01,
        "eval": {"examples": 0},
        "schedule": {"min_groups": 2, "warmup_steps": 2},
        "synergy": {"every": 1},
        "lora": {"enabled": False},
        "sandbox": {"workers": 1},
        "tasks": [
            {
                "name": name,
                "task": "letter_tasks:letters",
                "source": f"jsonl:{folder / name}.jsonl",
                **blocks.get(name, {}),
            }
            for name in LETTERS
        ],
        "verl": {"n_gpus_per_node": 1, "rollout": "hf_cpu", "reward_workers": 1},
    }
    for key, value in changes.items():
        known = raw.get(key)
        raw[key] = {**known, **value} if isinstance(known, dict) else value
    gpus = raw["verl"]["n_gpus_per_node"]
    given = raw["verl"].get("options", {})
    fake = {"+ray_kwargs.ray_init.num_gpus": gpus}
    raw["verl"]["options"] = {**cpu_options(), **fake, **given}
    path = folder / "run.json"
    path.write_text(json.dumps(raw))
    return path


@pytest.fixture(scope="module")
def module_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a run file into a new folder of that name; see `write_run`."""

    def write(name: str, blocks: dict[str, dict[str, Any]], **changes: Any) -> Path:
        return write_run(tmp_path_factory.mktemp(name), tiny_model, blocks, **changes)

    return write


def cpu_options() -> dict[str, Any]:
    """What verl must be told where there is no GPU, in its own keys."""
    model = "actor_rollout_ref"
    return {
        "trainer.device": "cpu",
        f"{model}.model.external_lib": "verl_cpu_engine",
        f"+{model}.model.override_config.attn_implementation": "sdpa",
        f"{model}.model.use_remove_padding": False,
        f"{model}.actor.use_torch_compile": False,
        f"{model}.actor.fsdp_config.use_torch_compile": False,
        f"{model}.ref.fsdp_config.use_torch_compile": False,
        f"{model}.rollout.agent.num_workers": 1,
        f"{model}.rollout.full_determinism": True,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "trainer.logger": ["console"],
        # Logical: verl reserves CPUs for what waits most of the time.
        "ray_kwargs.ray_init.num_cpus": 24,
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init.object_store_memory": 200_000_000,
    }


def cpu_environment() -> dict[str, str]:
    """Environment of a process that runs verl on this machine's CPU."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_cpu_platform",
        "PYTHONPATH": path,
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "TQ_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray would end workers for the memory that other programs take.
        "RAY_memory_monitor_refresh_ms": "0",
    }


@pytest.fixture(scope="module")
def module_start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line, or a script, in a process of its own that ends with the module."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, script: Path | None = None) -> subprocess.Popen[str]:
        program = ["-m", "astor_rl"] if script is None else [str(script)]
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=cpu_environment(),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # Ray's processes end with their driver
            process.wait(60)
