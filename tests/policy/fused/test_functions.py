"""Every function against numerical differentiation, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from astor_rl.policy.fused import blocks
from astor_rl.policy.fused.functions import (
    gated_project_add,
    head_norm,
    norm_project,
    project_add,
)
from astor_rl.policy.fused.linear import Part


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def layer(n: int, k: int, kind: str) -> list[Tensor | None]:
    """weight, bias, A, B of a layer: a frozen base with an adapter, a trained one, or both."""
    torch.manual_seed(n)
    weight, bias, down, up = randn(n, k), randn(n), randn(2, k), randn(n, 2)
    if kind == "trained":
        return [weight, bias, None, None]
    return [weight.requires_grad_(kind == "both"), None, down, up]


def parts(tensors: Sequence[Any], *scales: float) -> list[Part]:
    return [Part(*tensors[4 * i : 4 * i + 4], scale) for i, scale in enumerate(scales)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_ELEMENTS", 2 * 6)
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "kinds", [("adapter", "adapter"), ("trained", "both"), ("both", "trained")]
)
@pytest.mark.parametrize("frozen_input", [False, True])
def test_norm_project(kinds: tuple[str, str], frozen_input: bool) -> None:
    tensors = [*layer(3, 6, kinds[0]), *layer(4, 6, kinds[1])]
    x = randn(5, 6).requires_grad_(not frozen_input)

    def run(x: Tensor, weight: Tensor, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        return norm_project(x, weight, 1e-3, parts(tensors, 0.5, 1.5), torch.float64)

    assert gradcheck(run, (x, randn(6).requires_grad_(not frozen_input), *tensors))


@pytest.mark.parametrize("kind", ["adapter", "trained", "both"])
def test_project_add(kind: str) -> None:
    tensors = layer(4, 6, kind)

    def run(x: Tensor, residual: Tensor, *tensors: Tensor | None) -> Tensor:
        return project_add(x, residual, *parts(tensors, 0.5))

    assert gradcheck(run, (randn(5, 6), randn(5, 4), *tensors))


@pytest.mark.parametrize("kind", ["adapter", "trained", "both"])
def test_gated_project_add(kind: str) -> None:
    tensors = layer(4, 6, kind)

    def run(gate_up: Tensor, residual: Tensor, *tensors: Tensor | None) -> Tensor:
        return gated_project_add(gate_up, residual, *parts(tensors, 0.5))

    assert gradcheck(run, (randn(5, 12), randn(5, 4), *tensors))


def test_head_norm() -> None:
    def run(heads: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return head_norm(heads, (2, 1), query, key, 1e-3)

    assert gradcheck(run, (randn(3, 4, 6), randn(6), randn(6)))


def test_an_adapter_of_zeros_changes_no_bit() -> None:
    """What makes the first KL of a bfloat16 run exactly 0."""
    base, residual = torch.randn(64, 48).bfloat16(), torch.randn(32, 64).bfloat16()
    x, down, up = torch.randn(32, 48).bfloat16(), torch.randn(8, 48), torch.zeros(64, 8)
    without, fresh = Part(base, None, None, None, 1.0), Part(base, None, down, up, 2.0)
    for onto in (residual, residual.float()):
        assert torch.equal(project_add(x, onto, fresh), project_add(x, onto, without))
    outputs = [
        norm_project(x, torch.ones(48).bfloat16(), 1e-5, [part], torch.bfloat16)[0]
        for part in (without, fresh)
    ]
    assert torch.equal(*outputs)
