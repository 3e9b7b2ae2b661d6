from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.rollout import work
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from astor_rl.errors import ModelError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a byte tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("bench") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", pad_token="!")
    fast.chat_template = "{{ messages[0]['content'] }}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_prompts_are_ragged_and_keep_the_templates_end(model: Path, tmp_path: Path) -> None:
    said, prompts = work.prepare(str(model), tmp_path / "copy", 14)
    assert said.startswith(str(model))
    # A byte is a token: every function is long enough.
    assert [len(p) for p in prompts[:6]] == [90, 120, 150, 180, 210, 240]
    assert {tuple(p[-5:]) for p in prompts} == {tuple(prompts[0][-5:])}
    assert (tmp_path / "copy" / "tokenizer.json").is_file()


def test_another_model_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such"):
        work.prepare(str(tmp_path / "no-such"), tmp_path / "copy", 2)


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "rollout.json"
    arguments = ["--quick", "--only", "transformers", "generate", "--model", str(model)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rollout", *arguments, "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads(output.read_text())
    assert result["sampler_vs_generate"] > 0
    assert result["rollout_vs_vllm"] is None
    assert set(result["tokens_per_s"]) == {"transformers", "generate"}
    assert result["settings"]["quick"]
