"""Which sampler a run gets, and whole runs with vLLM where it is installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from astor_rl.config import load_config
from astor_rl.engines.local.model import load_model
from astor_rl.engines.local.sampling import longest, make_sampler
from astor_rl.engines.preparation import PreparedTask
from astor_rl.errors import DependencyError
from astor_rl.report.run_folder import read_metrics, read_samples
from astor_rl.rollout import vllm_engine
from astor_rl.rollout.cache import token_bytes
from astor_rl.rollout.transformers import TransformersSampler

Start = Callable[..., "subprocess.Popen[str]"]
Write = Callable[..., Path]

needs_vllm = pytest.mark.skipif(
    not vllm_engine.installed(), reason="vLLM is not installed here: `make test-vllm` runs these"
)


@pytest.fixture(scope="session")
def vllm_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head size that vLLM's CPU kernels have, and tied embeddings."""
    folder = tmp_path_factory.mktemp("vllm") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **shape,
        **heads,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tasks_of(path: Path, *lengths: int) -> list[PreparedTask]:
    config = load_config(path)
    return [
        PreparedTask(
            config=task,
            task=None,
            train=(),
            validation=(),
            test=(),
            prompts={"key": ((), tuple(range(n)))},
        )
        for task, n in zip(config.tasks, lengths, strict=True)
    ]


def test_the_longest_sequence_is_of_one_task(tiny_run: Write) -> None:
    path = tiny_run()
    raw = json.loads(path.read_text())
    raw["tasks"][0]["max_completion_length"] = 50
    path.write_text(json.dumps(raw))
    assert longest(load_config(path), tasks_of(path, 9, 30)) == 59
    assert longest(load_config(path), tasks_of(path, 9, 60)) == 66


def test_transformers_can_be_asked_for(tiny_run: Write) -> None:
    path = tiny_run(rollout={"backend": "transformers", "kv_cache_gib": 2**-20})
    config, notes = load_config(path), list[str]()
    loaded = load_model(config.model, dtype=torch.float32)
    device = torch.device("cpu")
    sampler = make_sampler(config, loaded, tasks_of(path, 5, 5), device=device, note=notes.append)
    assert isinstance(sampler, TransformersSampler)
    assert notes == ["rollouts: transformers"]
    assert sampler._places == 1024 // token_bytes(loaded.model.config, torch.float32)


@pytest.mark.skipif(vllm_engine.installed(), reason="vLLM is installed here")
def test_without_vllm_auto_is_transformers_and_vllm_an_error(tiny_run: Write) -> None:
    path = tiny_run()
    loaded = load_model(load_config(path).model, dtype=torch.float32)
    tasks, device, notes = tasks_of(path, 5, 5), torch.device("cpu"), list[str]()
    config = load_config(path)
    sampler = make_sampler(config, loaded, tasks, device=device, note=notes.append)
    assert isinstance(sampler, TransformersSampler)
    assert notes == ["rollouts: transformers"]
    with pytest.raises(DependencyError, match="make setup-vllm"):
        make_sampler(
            load_config(path, ["rollout.backend=vllm"]),
            loaded,
            tasks,
            device=device,
            note=notes.append,
        )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in record.items() if not k.startswith("time")}
        for record in read_metrics(folder)
    ]


@needs_vllm
@pytest.mark.slow
def test_auto_falls_back_with_a_reason_where_vllm_cannot_run_the_model(
    tiny_run: Write, astor: Start
) -> None:
    run = tiny_run(max_steps=1, eval={"examples": 0}, rollout={"kv_cache_gib": 1e-6})
    output = finish(astor("train", str(run), "--plain"))
    assert "rollouts: transformers: vLLM does not start" in output


@needs_vllm
@pytest.mark.slow
def test_a_run_with_vllm_learns_resumes_and_agrees_with_the_trainer(
    tiny_run: Write, astor: Start, vllm_model: Path, tmp_path: Path
) -> None:
    """One run stopped after 2 of 4 steps; the rest bit for bit what it would have been."""
    run = tiny_run(
        model=str(vllm_model),
        rollout={"backend": "vllm"},
        dtype="bfloat16",
        warmup={"steps": 2, "batch_size": 4},
    )
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    output = finish(astor("train", str(run), "--plain", "--set", f"output_dir={straight}"))
    assert "rollouts: vLLM" in output
    for steps in (2, 4):
        arguments = ("--set", f"output_dir={stopped}", "--set", f"max_steps={steps}", "--resume")
        finish(astor("train", str(run), *arguments))
    assert timeless(straight) == timeless(stopped)
    assert read_samples(straight) == read_samples(stopped)
    gaps = [record["sampler_gap/mean"] for record in read_metrics(straight)]
    assert len(gaps) == 4
    assert max(gaps) < 0.02
