"""RMSNorm forward and backward in few passes, in float32 inside, without autograd.

Rows are worked on a block at a time, in float32 copies whose memory is the same for every block
and stays in the cache: on CPU, fresh memory costs several times the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**17
"""Elements of a row block for each thread: 512 KiB in float32; the backward pass needs three."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write the normalised rows of `x` [S, ..., D] to `out`; returns 1 / rms, [S, ..., 1]."""
    rstd = x.new_empty((*x.shape[:-1], 1), dtype=_inner(x))
    wide_weight = weight.to(rstd.dtype)
    for rows, (wide,) in _row_blocks(x, rstd.dtype, scratch=1):
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
    for rows, (normed, wide, third) in _row_blocks(x, rstd.dtype, scratch=3):
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


def _inner(x: Tensor) -> torch.dtype:
    """Float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def _row_blocks(
    x: Tensor, dtype: torch.dtype, *, scratch: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Blocks of rows, each with `scratch` tensors of its shape; the memory is always the same."""
    step = max(1, _BLOCK_ELEMENTS * torch.get_num_threads() // max(1, x[:1].numel()))
    buffers = [x.new_empty((min(step, len(x)), *x.shape[1:]), dtype=dtype) for _ in range(scratch)]
    for start in range(0, len(x), step):
        count = min(step, len(x) - start)
        yield slice(start, start + count), [buffer[:count] for buffer in buffers]
