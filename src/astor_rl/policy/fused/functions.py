"""The parts of a decoder layer as autograd functions, each with one pass in and one out.

The residual stream runs through `norm_project` unchanged, so that the gradient that comes around
the block is added where the norm's own is written, and not in a pass by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from astor_rl.policy.fused.linear import Part, flatten, project, project_backward, unflatten
from astor_rl.policy.fused.norm import rms_norm, rms_norm_backward

_Grads = tuple[Tensor | None, ...]


def norm_project(
    x: Tensor, weight: Tensor, eps: float, parts: Sequence[Part], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """RMSNorm and linear layers on it: outputs side by side [S, sum of N], and `x`.

    Use the returned `x` from there on: its gradient goes through here.

    Args:
        x: the residual stream, [S, D].
        weight: the norm's, [D].
        eps: the norm's.
        parts: the layers.
        dtype: compute type of the products, and type of the outputs.
    """
    result: tuple[Tensor, Tensor] = _NormProject.apply(  # type: ignore[no-untyped-call]
        x, weight, eps, dtype, [part.scale for part in parts], *flatten(parts)
    )
    return result


def head_norm(
    heads: Tensor, counts: tuple[int, int], query_weight: Tensor, key_weight: Tensor, eps: float
) -> Tensor:
    """RMSNorm of each query's and key's head, as Qwen3 has it; values pass.

    Args:
        heads: [S, heads, size]: queries, keys, values.
        counts: how many are queries, and how many keys.
        query_weight, key_weight: the norms', [size].
        eps: the norms'.
    """
    result: Tensor = _HeadNorm.apply(  # type: ignore[no-untyped-call]
        heads, *counts, query_weight, key_weight, eps
    )
    return result


def project_add(x: Tensor, residual: Tensor, part: Part) -> Tensor:
    """A linear layer on `x` [S, K], computed in its type, added to the residual stream [S, D]."""
    result: Tensor = _ProjectAdd.apply(  # type: ignore[no-untyped-call]
        x, residual, part.scale, *flatten([part])
    )
    return result


def gated_project_add(gate_up: Tensor, residual: Tensor, part: Part) -> Tensor:
    """A linear layer on silu(gate) * up, added to the residual stream [S, D].

    The product isn't kept: the backward pass makes it again on its way.

    Args:
        gate_up: gate and up side by side, [S, 2 K].
        residual: [S, D].
        part: the layer.
    """
    result: Tensor = _GatedProjectAdd.apply(  # type: ignore[no-untyped-call]
        gate_up, residual, part.scale, *flatten([part])
    )
    return result


class _NormProject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
        scales: Sequence[float],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        parts = unflatten(tensors, scales, dtype)
        normed = x.new_empty(x.shape, dtype=dtype)
        rstd = rms_norm(x, weight, eps, normed)
        out, low = project(normed, parts)
        ctx.scales = scales
        ctx.save_for_backward(x, weight, rstd, normed, low, *flatten(parts))
        return out, x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> _Grads:
        x, weight, rstd, normed, low, *tensors = ctx.saved_tensors
        parts = unflatten(tensors, ctx.scales, normed.dtype)
        needs_norm = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_normed, grad_tensors = project_backward(
            grads[0], normed, low, parts, ctx.needs_input_grad[5:], input_grad=needs_norm
        )
        grad_x = grad_weight = None
        if grad_normed is not None:
            grad_x = torch.empty_like(x)
            grad_weight = rms_norm_backward(
                grad_normed,
                x,
                weight,
                rstd,
                grad_x,
                residual=grads[1],
                weight_grad=ctx.needs_input_grad[1],
            )
        return grad_x, grad_weight, None, None, None, *grad_tensors


class _HeadNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        heads: Tensor,
        queries: int,
        keys: int,
        query_weight: Tensor,
        key_weight: Tensor,
        eps: float,
    ) -> Tensor:
        out = torch.empty_like(heads)
        turned = queries + keys
        out[:, turned:] = heads[:, turned:]
        statistics = [
            rms_norm(heads[:, places], weight, eps, out[:, places])
            for places, weight in _normed(queries, keys, query_weight, key_weight)
        ]
        ctx.counts = queries, keys
        ctx.save_for_backward(heads, query_weight, key_weight, *statistics)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> _Grads:
        heads, query_weight, key_weight, *statistics = ctx.saved_tensors
        queries, keys = ctx.counts
        grad = torch.empty_like(heads)
        grad[:, queries + keys :] = grads[0][:, queries + keys :]
        weight_grads = [
            rms_norm_backward(grads[0][:, places], heads[:, places], weight, rstd, grad[:, places])
            for (places, weight), rstd in zip(
                _normed(queries, keys, query_weight, key_weight), statistics, strict=True
            )
        ]
        return grad, None, None, weight_grads[0], weight_grads[1], None


def _normed(
    queries: int, keys: int, query_weight: Tensor, key_weight: Tensor
) -> tuple[tuple[slice, Tensor], ...]:
    return (slice(queries), query_weight), (slice(queries, queries + keys), key_weight)


class _ProjectAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, scale: float, *tensors: Tensor | None
    ) -> Tensor:
        parts = unflatten(tensors, [scale], x.dtype)
        out, low = project(x, parts, onto=residual)
        ctx.scale = scale
        ctx.save_for_backward(x, low, *flatten(parts))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> _Grads:
        x, low, *tensors = ctx.saved_tensors
        parts = unflatten(tensors, [ctx.scale], x.dtype)
        grad_x, grad_tensors = project_backward(
            grads[0].to(x.dtype), x, low, parts, ctx.needs_input_grad[3:]
        )
        return grad_x, grads[0], None, *grad_tensors


class _GatedProjectAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate_up: Tensor, residual: Tensor, scale: float, *tensors: Tensor | None
    ) -> Tensor:
        parts = unflatten(tensors, [scale], gate_up.dtype)
        gate, up = gate_up.chunk(2, dim=1)
        out, low = project(torch.nn.functional.silu(gate).mul_(up), parts, onto=residual)
        ctx.scale = scale
        ctx.save_for_backward(gate_up, low, *flatten(parts))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> _Grads:
        gate_up, low, *tensors = ctx.saved_tensors
        parts: list[Part] = unflatten(tensors, [ctx.scale], gate_up.dtype)
        gate, up = gate_up.chunk(2, dim=1)
        grad_gate_up = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=1)
        opened = torch.nn.functional.silu(gate)
        grad_product, grad_tensors = project_backward(
            grads[0].to(gate_up.dtype), opened * up, low, parts, ctx.needs_input_grad[3:]
        )
        assert grad_product is not None
        torch.mul(grad_product, opened, out=grad_up)
        grad_product.mul_(up)
        torch.ops.aten.silu_backward.grad_input(grad_product, gate, grad_input=grad_gate)
        return grad_gate_up, grads[0], None, *grad_tensors
