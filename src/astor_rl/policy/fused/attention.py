"""Rotary embedding and tree attention in one autograd function, with one copy in and one out.

`tree_attention` says what is computed. Here the heads of a packed sequence are gathered, rotated,
once into the layout in which every product of every block is a batch of contiguous matrices, and
the products write into their places; the heads that share a key are rows of one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from astor_rl.policy.fused.blocks import row_blocks
from astor_rl.policy.tree_attention import Tree


@dataclass(frozen=True, slots=True)
class Heads:
    """How a model's projections are divided: `query` heads over `shared` keys, of `size` each."""

    query: int
    shared: int
    size: int

    @property
    def group(self) -> int:
        """Query heads to a key."""
        return self.query // self.shared

    @property
    def total(self) -> int:
        """Heads of queries, keys and values together."""
        return self.query + 2 * self.shared


@dataclass(frozen=True, slots=True)
class _Block:
    """One block's places: of queries, keys and values among the inputs, and of the outputs."""

    prompt: int
    branches: int
    width: int
    prompt_places: tuple[slice, slice, slice]
    branch_places: tuple[slice, slice, slice]
    prompt_output: slice
    branch_output: slice


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each head row goes and comes from. Rows are [S x heads] of one head's size.

    Attributes:
        heads: the division it is for.
        blocks: in order.
        gather: for each place in the blocks' layout a row of the projections' output.
        restore: for each row of the projections' output its place.
        query_gather, query_restore: the same for attention's output, which has queries only.
        padding: places of `query_gather` that are nobody's.
    """

    heads: Heads
    blocks: tuple[_Block, ...]
    gather: Tensor
    restore: Tensor
    query_gather: Tensor
    query_restore: Tensor
    padding: Tensor
    _masks: dict[tuple[int, int, int, int | None], Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: Tree, heads: Heads) -> Layout:
        """The layout of a bin, on its device; made once and kept with the tree."""
        found = tree.layouts.get(heads)
        if found is None:
            found = tree.layouts[heads] = _layout(tree, heads)
        return found

    def hide(self, scores: Tensor, *, ahead: int = 0, window: int | None) -> None:
        """Hide later keys and those out of the window; row i stands at key i // group + `ahead`.

        Args:
            scores: [..., rows, keys], changed in place; a key's group of query rows side by side.
            ahead: how many keys come before the first row's own.
            window: tokens a row sees, itself included, or None.
        """
        rows, columns = scores.shape[-2:]
        name = (rows, columns, ahead, window)
        mask = self._masks.get(name)
        if mask is None:
            row = torch.arange(rows, device=scores.device)[:, None] // self.heads.group + ahead
            gap = row - torch.arange(columns, device=scores.device)
            mask = gap < 0 if window is None else (gap < 0) | (gap >= window)
            self._masks[name] = mask
        scores.masked_fill_(mask, torch.finfo(scores.dtype).min)


class _Filling:
    """Rows laid one piece after another."""

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []
        self._count = 0

    def add(self, rows: Tensor) -> slice:
        """Append rows; returns their places."""
        self._pieces.append(rows.flatten())
        first, self._count = self._count, self._count + rows.numel()
        return slice(first, self._count)

    def all(self) -> Tensor:
        """The rows by place."""
        return torch.cat(self._pieces)


def _layout(tree: Tree, heads: Heads) -> Layout:
    device = tree.gather.device
    query = torch.arange(heads.query, device=device).view(heads.shared, 1, heads.group)
    key = torch.arange(heads.query, heads.query + heads.shared, device=device)[:, None]
    inputs, outputs = _Filling(), _Filling()

    def places(positions: Tensor) -> tuple[slice, slice, slice]:
        row = positions * heads.total
        value = key + heads.shared
        return inputs.add(row[:, None] + query), inputs.add(row + key), inputs.add(row + value)

    blocks = []
    for block in tree.blocks:
        positions = tree.gather[block.start : block.start + block.size]
        prompt, branches = positions[: block.prompt], positions[block.prompt :]
        blocks.append(
            _Block(
                block.prompt,
                block.branches,
                block.width,
                places(prompt),
                places(branches),
                outputs.add(prompt[:, None] * heads.query + query),
                outputs.add(branches[:, None] * heads.query + query),
            )
        )
    gather, query_gather, length = inputs.all(), outputs.all(), len(tree.scatter)
    query_restore = _first_places(query_gather, length * heads.query)
    nobodys = torch.ones(len(query_gather), dtype=torch.bool, device=device)
    nobodys[query_restore] = False
    return Layout(
        heads=heads,
        blocks=tuple(blocks),
        gather=gather,
        restore=_first_places(gather, length * heads.total),
        query_gather=query_gather,
        query_restore=query_restore,
        padding=nobodys.nonzero()[:, 0],
    )


def _first_places(rows: Tensor, count: int) -> Tensor:
    """For each row its first place; later ones are padding, which repeats a block's first row."""
    places = torch.arange(len(rows), device=rows.device)
    first = torch.full((count,), len(rows), device=rows.device)
    return first.scatter_reduce_(0, rows, places, "amin")


def rotary_tree_attention(
    qkv: Tensor, tables: tuple[Tensor, Tensor], layout: Layout, scale: float, window: int | None
) -> Tensor:
    """Attention's output [S, queries x size] over a packed sequence.

    Args:
        qkv: queries, keys and values side by side, [S, heads x size], not rotated yet.
        tables: cos and sin, [S, size]; the rotation is computed in the wider of the types.
        layout: the sequence's.
        scale: of the scores.
        window: tokens a position sees, itself included, or None.
    """
    result: Tensor = _TreeAttention.apply(  # type: ignore[no-untyped-call]
        qkv, *tables, layout, scale, window
    )
    return result


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        layout: Layout,
        scale: float,
        window: int | None,
    ) -> Tensor:
        heads = layout.heads
        rotated = _rotate(qkv, cos, sin, heads)
        rows = rotated.view(-1, heads.size).index_select(0, layout.gather)
        output = rows.new_empty(len(layout.query_gather), heads.size)
        weights: list[Tensor] = []
        for block in layout.blocks:
            weights += _attend(block, layout, rows, output, scale, window)
        ctx.save_for_backward(rows, cos, sin, *weights)
        ctx.layout, ctx.scale = layout, scale
        return output.index_select(0, layout.query_restore).view(len(qkv), -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, cos, sin, *weights = ctx.saved_tensors
        layout, heads = ctx.layout, ctx.layout.heads
        grad = grads[0].contiguous().view(-1, heads.size).index_select(0, layout.query_gather)
        grad.index_fill_(0, layout.padding, 0)
        grad_rows = torch.empty_like(rows)
        for block in layout.blocks:
            used = 2 if block.branches * block.width else 1
            mine, weights = weights[:used], weights[used:]
            _attend_backward(block, heads, rows, grad, mine, grad_rows, ctx.scale)
        restored = grad_rows.index_select(0, layout.restore).view(-1, heads.total * heads.size)
        # The inverse of a rotation is the rotation by the opposite angle.
        return _rotate(restored, cos, -sin, heads).flatten(1), None, None, None, None, None


def _rotate(qkv: Tensor, cos: Tensor, sin: Tensor, heads: Heads) -> Tensor:
    """Queries and keys times cos plus their halves, exchanged and signed, times sin; values as is.

    Returns:
        [S, total, size], of the input's type; computed in the wider of its and the tables'.
    """
    source = qkv.view(-1, heads.total, heads.size)
    turned = heads.query + heads.shared
    result = torch.empty_like(source)
    result[:, turned:] = source[:, turned:]
    half = heads.size // 2
    cos, sin = cos[:, None], sin[:, None]
    dtype = torch.promote_types(qkv.dtype, cos.dtype)
    for rows, (wide, out) in row_blocks(source[:, :turned], dtype, scratch=2):
        wide.copy_(source[rows, :turned])
        torch.mul(wide, cos[rows], out=out)
        out[..., :half].addcmul_(wide[..., half:], sin[rows, :, :half], value=-1)
        out[..., half:].addcmul_(wide[..., :half], sin[rows, :, half:])
        result[rows, :turned] = out
    return result


@dataclass(frozen=True, slots=True)
class _Views:
    """A block's rows as batches of matrices.

    A prompt's are [shared, rows, size]; a branch's also, and [shared x branches, rows, size].
    """

    prompt: tuple[Tensor, Tensor, Tensor]
    branch_query: Tensor
    branch: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, block: _Block, heads: Heads, rows: Tensor) -> _Views:
        query, key, value = (rows[place] for place in block.prompt_places)
        shared, size = heads.shared, heads.size
        prompt = tuple(x.view(shared, -1, size) for x in (query, key, value))
        query, key, value = (rows[place] for place in block.branch_places)
        count = shared * block.branches
        branch = tuple(
            x.view(count, n, size)
            for x, n in (
                (query, block.width * heads.group),
                (key, block.width),
                (value, block.width),
            )
        )
        stacked = query.view(shared, block.branches * block.width * heads.group, size)
        return cls(prompt, stacked, branch)  # type: ignore[arg-type]


def _attend(
    block: _Block, layout: Layout, rows: Tensor, output: Tensor, scale: float, window: int | None
) -> list[Tensor]:
    """Write a block's outputs; returns the weights, of the prompt and, if any, of the branches."""
    heads = layout.heads
    views = _Views.of(block, heads, rows)
    query, key, value = views.prompt
    prompt_output = output[block.prompt_output].view_as(query)
    scores = _product(query, key.transpose(1, 2), scale)
    layout.hide(scores, window=window)
    prompt_weights = scores.softmax(dim=-1)
    torch.bmm(prompt_weights, value, out=prompt_output)
    if not block.branches * block.width:
        return [prompt_weights]
    shared_query, (query, own_key, own_value) = views.branch_query, views.branch
    scores = rows.new_empty(*shared_query.shape[:2], block.prompt + block.width)
    on_prompt, on_own = _sides(scores, block, heads)
    _product(shared_query, key.transpose(1, 2), scale, out=on_prompt)
    _product(query, own_key.transpose(1, 2), scale, out=on_own)
    layout.hide(on_own, window=window)
    if window is not None:
        by_branch = scores.view(len(on_own), -1, scores.shape[-1])[..., : block.prompt]
        layout.hide(by_branch, ahead=block.prompt, window=window)
    weights = scores.softmax(dim=-1)
    on_prompt, on_own = _parts(weights, block, heads)
    branch_output = output[block.branch_output].view_as(shared_query)
    torch.bmm(on_prompt, value, out=branch_output)
    branch_output.view_as(query).baddbmm_(on_own, own_value)
    return [prompt_weights, weights]


def _attend_backward(
    block: _Block,
    heads: Heads,
    rows: Tensor,
    grad: Tensor,
    weights: Sequence[Tensor],
    grad_rows: Tensor,
    scale: float,
) -> None:
    """Write the gradients of a block's rows, given those of its outputs."""
    views, into = _Views.of(block, heads, rows), _Views.of(block, heads, grad_rows)
    query, key, value = views.prompt
    grad_query, grad_key, grad_value = into.prompt
    mine = grad[block.prompt_output].view_as(query)
    torch.bmm(weights[0].transpose(1, 2), mine, out=grad_value)
    slopes = _softmax_backward(torch.bmm(mine, value.transpose(1, 2)), weights[0])
    _product(slopes, key, scale, out=grad_query)
    _product(slopes.transpose(1, 2), query, scale, out=grad_key)
    if len(weights) == 1:
        return
    shared_query, (query, own_key, own_value) = views.branch_query, views.branch
    own_grad_query, own_grad_key, own_grad_value = into.branch
    mine = grad[block.branch_output].view_as(shared_query)
    own = mine.view_as(query)
    on_prompt, on_own = _parts(weights[1], block, heads)
    grad_value.baddbmm_(on_prompt.transpose(1, 2), mine)
    torch.bmm(on_own.transpose(1, 2), own, out=own_grad_value)
    slopes = torch.empty_like(weights[1])
    on_prompt, on_own = _sides(slopes, block, heads)
    torch.bmm(mine, value.transpose(1, 2), out=on_prompt)
    torch.bmm(own, own_value.transpose(1, 2), out=on_own)
    on_prompt, on_own = _parts(_softmax_backward(slopes, weights[1]), block, heads)
    _product(on_prompt, key, scale, out=into.branch_query)
    own_grad_query.baddbmm_(on_own, own_key, alpha=scale)
    grad_key.baddbmm_(on_prompt.transpose(1, 2), shared_query, alpha=scale)
    _product(on_own.transpose(1, 2), query, scale, out=own_grad_key)


def _product(left: Tensor, right: Tensor, scale: float, *, out: Tensor | None = None) -> Tensor:
    """`scale` times the batched product."""
    if out is None:
        out = left.new_empty(len(left), left.shape[1], right.shape[2])
    return torch.baddbmm(out, left, right, beta=0, alpha=scale, out=out)


def _sides(scores: Tensor, block: _Block, heads: Heads) -> tuple[Tensor, Tensor]:
    """Branch scores [shared, rows, keys] on the prompt, and on their own branch, by branch."""
    own = scores.view(heads.shared * block.branches, -1, scores.shape[-1])
    return scores[..., : block.prompt], own[..., block.prompt :]


def _parts(weights: Tensor, block: _Block, heads: Heads) -> tuple[Tensor, Tensor]:
    """The two sides as matrices of their own: batched products would copy them, twice as slow."""
    on_prompt, on_own = _sides(weights, block, heads)
    return on_prompt.contiguous(), on_own.contiguous()


def _softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient at a softmax's input, given its output."""
    return torch._softmax_backward_data(grad, weights, -1, weights.dtype)
