"""RMSNorm forward and backward in few passes, in float32 inside, without autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from astor_rl.policy.fused.blocks import inner, row_blocks


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write the normalised rows of `x` [S, ..., D] to `out`; returns 1 / rms, [S, ..., 1]."""
    rstd = x.new_empty((*x.shape[:-1], 1), dtype=inner(x))
    wide_weight = weight.to(rstd.dtype)
    for rows, (wide,) in row_blocks(x, rstd.dtype, scratch=1):
        wide.copy_(x[rows])
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        rstd[rows] = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        out[rows] = wide.mul_(rstd[rows]).mul_(wide_weight)
    return rstd


def rms_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    rstd: Tensor,
    grad_x: Tensor,
    *,
    residual: Tensor | None = None,
    weight_grad: bool = True,
) -> Tensor | None:
    """Write the gradient at `x` to `grad_x`; returns the weight's, in the inner type, if wanted.

    Args:
        grad: at the output.
        x, weight, rstd: as the forward pass had and returned them.
        grad_x: of `x`'s shape and type.
        residual: added to the gradient at `x`: what reaches it on the way around the norm.
        weight_grad: whether the weight's gradient is wanted.
    """
    wide_weight = weight.to(rstd.dtype)
    grad_weight = torch.zeros_like(wide_weight) if weight_grad else None
    for rows, (normed, wide, third) in row_blocks(x, rstd.dtype, scratch=3):
        normed.copy_(x[rows]).mul_(rstd[rows])
        wide.copy_(grad[rows])
        product = torch.mul(normed, wide, out=third)
        if grad_weight is not None:
            grad_weight += product.flatten(0, -2).sum(dim=0)
        mean = product.mul_(wide_weight).mean(dim=-1, keepdim=True)
        wide.mul_(wide_weight).addcmul_(normed, mean, value=-1).mul_(rstd[rows])
        if residual is not None:
            wide.add_(third.copy_(residual[rows]))
        grad_x[rows] = wide
    return grad_weight
