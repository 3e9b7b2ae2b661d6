"""The policy on a tiny model: what it computes, next to what samplers and exports compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from astor_rl.config import LoraConfig
from astor_rl.engines.local.model import load_model
from astor_rl.engines.local.policy import Policy
from astor_rl.rollout.owned_model import OwnedModel

CPU = torch.device("cpu")


@pytest.mark.parametrize("lora", [LoraConfig(r=4), None])
def test_bf16_keeps_the_rotary_frequencies_in_float32(
    tiny_model: Path, lora: LoraConfig | None
) -> None:
    loaded = load_model(str(tiny_model), dtype=torch.float32)
    expected = loaded.model.model.rotary_emb.inv_freq.clone()
    sampled = OwnedModel(loaded.model, torch.bfloat16, CPU)._model.model.rotary_emb
    policy = Policy(loaded, lora=lora, device=CPU, dtype=torch.bfloat16)
    with policy._reference.use() as reference:  # type: ignore[union-attr]
        for model in (policy.model, reference):
            frequencies = next(b for n, b in model.named_buffers() if n.endswith("inv_freq"))
            torch.testing.assert_close(frequencies, expected, rtol=0, atol=0)
            torch.testing.assert_close(frequencies, sampled.inv_freq, rtol=0, atol=0)


def test_with_lora_the_base_is_in_the_compute_type_and_the_adapter_in_float32(
    tiny_model: Path,
) -> None:
    loaded = load_model(str(tiny_model), dtype=torch.float32)
    policy = Policy(loaded, lora=LoraConfig(r=4), device=CPU, dtype=torch.bfloat16)
    kinds = {p.requires_grad: p.dtype for p in policy.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
