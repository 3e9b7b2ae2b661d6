"""Rows a block at a time, in memory that is the same for every block and stays in the cache.

On CPU, fresh memory costs several times the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**17
"""Elements of a row block for each thread: 512 KiB in float32; a backward pass needs three."""


def inner(x: Tensor) -> torch.dtype:
    """The type to compute in: float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def row_blocks(
    x: Tensor, dtype: torch.dtype, *, scratch: int
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Blocks of rows of `x`, each with `scratch` tensors of its shape."""
    step = max(1, _BLOCK_ELEMENTS * torch.get_num_threads() // max(1, x[:1].numel()))
    buffers = [x.new_empty((min(step, len(x)), *x.shape[1:]), dtype=dtype) for _ in range(scratch)]
    for start in range(0, len(x), step):
        count = min(step, len(x) - start)
        yield slice(start, start + count), [buffer[:count] for buffer in buffers]
