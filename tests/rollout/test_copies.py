"""What sampling copies, counted in bytes: what no change may make more, on any machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from astor_rl.rollout.transformers import TransformersSampler

_COPIES = {
    "_to_copy", "cat", "clone", "copy_", "constant_pad_nd", "gather", "index", "index_copy_",
    "index_put_", "index_select", "repeat", "stack",
}  # fmt: skip


class Copies(TorchDispatchMode):
    """Bytes that operations wrote that only move data."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _COPIES and isinstance(result, torch.Tensor):
            written = args[2] if func.overloadpacket.__name__ == "index_put_" else result
            self.bytes += written.numel() * written.element_size()
        return result


@pytest.fixture
def copied(tiny_model, spell, ask):
    """Bytes that are copied for one group, by its prompt's length and the tokens it samples."""
    model = tiny_model("llama")

    def copied(prompt: int, tokens: int) -> int:
        sampler = TransformersSampler(model, decode=spell, stop_token_ids=[], dtype=torch.float32)
        assert sampler.mode == "grouped"
        request = ask(0, prompt, num_generations=4, max_tokens=tokens)
        with Copies() as copies:
            assert len(list(sampler.sample([request]))) == 4
        return copies.bytes

    return copied


def test_a_tokens_copies_do_not_grow_with_the_cache(copied) -> None:
    short = copied(8, 60) - copied(8, 40)
    long = copied(180, 60) - copied(180, 40)
    assert short > 0
    assert long == short


def test_a_prompt_is_copied_once_for_its_group(copied) -> None:
    # Without the first use of the cache, whose allocation is by the longest prompt.
    per_token = (copied(180, 2) - copied(60, 2)) / 120
    layers, heads, size = 3, 2, 8
    cache = 2 * layers * heads * size * 4
    assert cache <= per_token
    # What else is moved is less than three more copies, one for each other completion.
    assert per_token < 4 * cache
