"""A model that isn't what its type says is found out by trial, and left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from astor_rl.policy.forward import prepare_packing
from astor_rl.policy.fused.check import fuse_kernels
from astor_rl.policy.fused.layer import FusedLayer

Maker = Callable[..., Any]


class Scaled(nn.Module):
    """A norm that differs in its output, or in its gradient only."""

    def __init__(self, own: Any, *, backward_only: bool) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = own.weight, own.variance_epsilon
        self._backward_only = backward_only

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.weight * x * (x.square().mean(-1, True) + self.variance_epsilon).rsqrt()
        return 2 * normed - normed.detach() if self._backward_only else 2 * normed


@pytest.mark.parametrize(
    ("backward_only", "message"),
    [(False, "layer 1's fused output is"), (True, "layer 1's fused gradients are")],
)
def test_what_differs_is_refused(tiny_model: Maker, backward_only: bool, message: str) -> None:
    model = tiny_model("llama")
    layer = model.get_decoder().layers[1]
    layer.post_attention_layernorm = Scaled(
        layer.post_attention_layernorm, backward_only=backward_only
    )
    assert prepare_packing(model) is None
    reason = str(fuse_kernels(model))
    assert message in reason
    assert "\n" not in reason
    assert not any(isinstance(module, FusedLayer) for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_equal_is_fused(tiny_model: Maker, dtype: torch.dtype) -> None:
    model = tiny_model("qwen2", initializer_range=0.05).to(dtype)
    assert prepare_packing(model) is None
    assert fuse_kernels(model) is None


def test_a_deep_16_bit_model_is_fused_though_rounding_grows(tiny_model: Maker) -> None:
    """SmolLM2-135M: in bfloat16 its own gradients are 126% off those in fp32, fused ones 58%."""
    model = tiny_model("llama", num_hidden_layers=24, initializer_range=0.3).to(torch.bfloat16)
    assert prepare_packing(model) is None
    assert fuse_kernels(model) is None


def test_a_frozen_model_is_compared_by_its_outputs_and_input_gradients(tiny_model: Maker) -> None:
    model = tiny_model("llama").requires_grad_(False)
    assert prepare_packing(model) is None
    assert fuse_kernels(model) is None
