"""Tiny random models of several families, and requests for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING as CONFIGS
from transformers import AutoModelForCausalLM

from astor_rl.rollout.base import Request

VOCABULARY = 103

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": {"sliding_window": 7},
    "gemma2": {"sliding_window": 7, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices on a busy machine: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """`tiny_model(family, seed=0, **config)`: a random float32 model in eval mode."""

    def make(family: str, seed: int = 0, **changes: Any) -> Any:
        config = CONFIGS[family](**{**_SHAPE, **_SPECIAL.get(family, {}), **changes})
        torch.manual_seed(seed)
        # sdpa leaves Gemma 2's softcap out, and Bloom has none.
        attention = "eager" if family in {"gemma2", "bloom"} else "sdpa"
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        ).eval()

    return make


@pytest.fixture(scope="session")
def spell() -> Callable[[Sequence[int]], str]:
    """The tiny models' tokenizer: token 7 is `<7>`."""
    return lambda ids: "".join(f"<{int(i)}>" for i in ids)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Request]:
    """`ask(number, length, **fields)`: a random prompt, the same for the same arguments."""

    def make(number: int, length: int, **fields: Any) -> Request:
        generator = torch.Generator().manual_seed(1000 * number + length)
        prompt = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        defaults = {"num_generations": 3, "max_tokens": 10, "seed": number}
        return Request(
            id=number,
            messages=({"role": "user", "content": f"prompt {number}"},),
            prompt_ids=tuple(prompt),
            **{**defaults, **fields},
        )

    return make
