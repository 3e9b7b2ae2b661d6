"""Fixtures and rules every room shares.

Among them a tiny model with a character tokenizer, and dense tasks that it can learn in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A deadline is a wall-clock limit: on a busy machine it fails what is right.
settings.register_profile("astor", deadline=None)
settings.load_profile("astor")

# As the command line sets it, before anything loads torch.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_LETTERS = "abcdefghijklmnopqrstuvwxyz ?"
_TEMPLATE = (
    "{% for m in messages %}<u>{{ m['content'] }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)

TASK_MODULE = '''
"""Dense rewards: the share of a completion's letters that are the wanted one."""
from astor_rl.tasks.from_reward import RewardTask


def share(prompts, completions, letter, **_):
    return [c.count(l) / max(len(c), 1) for c, l in zip(completions, letter, strict=True)]


def short(prompts, completions, letter, **_):
    return [float(len(c) <= 4) for c in completions]


def broken(prompts, completions, letter, **_):
    return [float("nan") for _ in completions]


letters = RewardTask(share, answer_column="answer", format_function=short)
nan = RewardTask(broken, answer_column="answer")
'''


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-shared",
        action="store_true",
        help="fail, instead of skip, tests that need the shared data folder when it is absent",
    )


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Path:
    """The team's shared data folder; the test skips, with the reason, where it is absent."""
    root = Path(os.environ.get("ASTOR_SHARED", Path(__file__).parents[2] / "shared"))
    data = root / "data"
    if not data.is_dir():
        reason = f"no shared data at {data} (set ASTOR_SHARED)"
        if request.config.getoption("--require-shared"):
            pytest.fail(reason)
        pytest.skip(reason)
    return data


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and its character tokenizer."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    specials = ["<pad>", "<s>", "<e>", "<u>", "<a>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *_LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<e>",
        additional_special_tokens=["<u>", "<a>"],
    )
    fast.chat_template = _TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_run(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a run file for two dense tasks; keyword arguments change or add keys."""
    (tmp_path / "dense_tasks.py").write_text(TASK_MODULE)
    for name, letter in (("first", "a"), ("second", "z")):
        rows = [
            {"prompt": f"{word} {other}", "letter": letter, "answer": letter * 3}
            for word in ("say", "give", "write", "print", "type", "put")
            for other in ("one", "two", "more", "some")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)

    def write(**changes: Any) -> Path:
        raw: dict[str, Any] = {
            "model": str(tiny_model),
            "output_dir": str(tmp_path / "run"),
            "dtype": "float32",
            "max_steps": 4,
            "save_steps": 1,
            "prompts_per_step": 6,
            "num_generations": 4,
            "max_completion_length": 6,
            "max_prompt_length": 40,
            "learning_rate": 0.01,
            "torch_threads": 1,
            "beta": 0.01,
            "eval": {"examples": 2, "samples": 2, "temperature": 1.0},
            "schedule": {"min_groups": 2, "warmup_steps": 2},
            "synergy": {"every": 2},
            "lora": {"r": 4},
            "tasks": [
                {
                    "name": name,
                    "task": "dense_tasks:letters",
                    "source": f"jsonl:{tmp_path / name}.jsonl",
                }
                for name in ("first", "second")
            ],
        }
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(raw.get(key), dict):
                raw[key] = {**raw[key], **value}
            else:
                raw[key] = value
        path = tmp_path / "run.json"
        path.write_text(json.dumps(raw))
        return path

    return write


@pytest.fixture
def astor() -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a process of its own."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "astor_rl", *arguments],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
