from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from astor_rl.policy.fused.attention import Heads, Layout, rotary_tree_attention
from astor_rl.policy.masks import dense_mask
from astor_rl.policy.packing import Packed, TokenGroup, pack_groups
from astor_rl.policy.tree_attention import Tree

HEADS = [Heads(4, 2, 6), Heads(3, 3, 4), Heads(3, 1, 4)]
BINS = {
    "ragged": [
        TokenGroup([1, 2, 3], [[4, 5, 6], [7], [], [8, 9, 4, 5]]),
        TokenGroup([3], [[1, 2]]),
    ],
    "even": [TokenGroup([1, 2], [[4, 5, 6], [7, 8, 9]])],
    "one-token completions": [TokenGroup([1, 2, 3], [[4], [5]]), TokenGroup([1], [[2]])],
}


def pack(name: str) -> Packed:
    (packed,) = pack_groups(BINS[name], 100)
    return packed


def inputs(packed: Packed, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    qkv = torch.randn(len(packed.input_ids_S), heads.total * heads.size, dtype=torch.float64)
    steps = torch.arange(1, heads.size // 2 + 1, dtype=torch.float64).repeat(2)
    angles = packed.position_ids_S[:, None] / steps
    return qkv.requires_grad_(), angles.cos(), angles.sin()


def defined(
    qkv: Tensor, cos: Tensor, sin: Tensor, packed: Packed, heads: Heads, window: int | None
) -> Tensor:
    """Rotary embedding by transformers, and a dense mask over the whole square."""
    split = qkv.view(1, len(qkv), heads.total, heads.size).transpose(1, 2)
    query, key, value = split.split([heads.query, heads.shared, heads.shared], dim=1)
    query, key = apply_rotary_pos_emb(query, key, cos[None], sin[None])
    key, value = (x.repeat_interleave(heads.group, dim=1) for x in (key, value))
    scores = 0.4 * query @ key.transpose(2, 3) + dense_mask(packed, torch.float64, window)
    return (scores.softmax(-1) @ value)[0].transpose(0, 1).reshape(len(qkv), -1)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.parametrize("name", BINS)
def test_equals_the_definition(heads: Heads, window: int | None, name: str) -> None:
    packed = pack(name)
    tree = Tree.of(packed)
    qkv, cos, sin = inputs(packed, heads)
    out = rotary_tree_attention(qkv, (cos, sin), Layout.of(tree, heads), 0.4, window)
    expected = defined(qkv, cos, sin, packed, heads, window)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    mine, wanted = (torch.autograd.grad(x, qkv, grad)[0] for x in (out, expected))
    torch.testing.assert_close(mine, wanted)


def test_numerical_gradient() -> None:
    packed, heads = pack("ragged"), Heads(2, 1, 2)
    layout = Layout.of(Tree.of(packed), heads)
    qkv, cos, sin = inputs(packed, heads)
    assert gradcheck(lambda x: rotary_tree_attention(x, (cos, sin), layout, 0.4, None), (qkv,))


def test_layers_share_a_layout() -> None:
    tree = Tree.of(pack("ragged"))
    assert Layout.of(tree, HEADS[0]) is Layout.of(tree, Heads(4, 2, 6))
    assert Layout.of(tree, HEADS[0]) is not Layout.of(tree, HEADS[1])


def test_tables_in_a_wider_type_rotate_in_it() -> None:
    """With float32 tables the angles aren't rounded to bfloat16, as in transformers' own."""
    packed, heads = pack("ragged"), HEADS[0]
    layout = Layout.of(Tree.of(packed), heads)
    qkv, cos, sin = (x.detach() for x in inputs(packed, heads))
    exact = rotary_tree_attention(qkv.bfloat16().double(), (cos, sin), layout, 0.4, None)
    wide = rotary_tree_attention(qkv.bfloat16(), (cos.float(), sin.float()), layout, 0.4, None)
    assert wide.dtype == torch.bfloat16
    torch.testing.assert_close(wide.double(), exact, atol=0.03, rtol=0.02)
