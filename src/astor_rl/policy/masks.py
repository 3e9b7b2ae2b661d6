"""Who may attend to whom in a packed sequence (docs/method.md, Packing)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from astor_rl.policy.packing import Packed

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query, key) positions -> bool, the form flex_attention takes."""


def tree_mask(packed: Packed, window: int | None = None) -> MaskMod:
    """Causal AND same block AND (key in the prompt or in the query's own completion).

    Args:
        packed: the bin; the function works on its device.
        window: a sliding window: also query position - key position < window, by position id, as
            a completion's rows may be far from its prompt's in the packed sequence.
    """
    block_S, branch_S, position_S = packed.block_S, packed.branch_S, packed.position_ids_S

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del batch, head
        own = (branch_S[key] == 0) | (branch_S[key] == branch_S[query])
        seen = (key <= query) & (block_S[key] == block_S[query]) & own
        if window is None:
            return seen
        return seen & (position_S[query] - position_S[key] < window)

    return mask_mod


def dense_mask(packed: Packed, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """Additive [1, 1, S, S]: 0 where seen, the type's lowest number elsewhere.

    Additive in the type attention computes in, since eager attention adds its mask and sdpa
    would convert a bool one anew in every layer.
    """
    rows_S = torch.arange(len(packed.input_ids_S), device=packed.input_ids_S.device)
    seen_SS = tree_mask(packed, window)(rows_S, rows_S, rows_S[:, None], rows_S[None, :])
    mask_SS = torch.zeros(seen_SS.shape, dtype=dtype, device=seen_SS.device)
    return mask_SS.masked_fill_(~seen_SS, torch.finfo(dtype).min)[None, None]


def block_mask(packed: Packed, window: int | None = None) -> BlockMask:
    """The same for flex_attention: blocks that nothing sees are skipped, memory is linear in S."""
    length = len(packed.input_ids_S)
    device = packed.input_ids_S.device
    return create_block_mask(tree_mask(packed, window), None, None, length, length, device=device)
