"""A decoder layer of the Llama family, run through the fused functions where that is possible.

`fuse` gives the layers of a model a subclass of their own class: modules, parameters and their
names stay, copies of the model are fused too, and whatever a fused layer isn't made for (another
attention, a cache, hooks on its parts) runs through the model's own forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from astor_rl.llama_family import LINEARS, family_reasons, hooked, layer_window, norms
from astor_rl.policy.fused.attention import Heads, Layout, rotary_tree_attention
from astor_rl.policy.fused.functions import (
    gated_project_add,
    head_norm,
    norm_project,
    project_add,
)
from astor_rl.policy.fused.linear import Part, part_of
from astor_rl.policy.support import text_config
from astor_rl.policy.tree_attention import TREE_ATTENTION, Tree


class FusedLayer(nn.Module):
    """Stands before a layer's own class: its forward, fused for packed sequences."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As transformers calls a decoder layer, [1, S, D] -> [1, S, D]."""
        tree, parts = kwargs.get("tree"), None
        if isinstance(tree, Tree) and not args and kwargs.get("past_key_values") is None:
            parts = _parts(self)
        if parts is None or not isinstance(tree, Tree):
            return super().forward(hidden_states, *args, **kwargs)
        device, dtype = hidden_states.device.type, hidden_states.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        cos, sin = kwargs["position_embeddings"]
        with torch.autocast(device, enabled=False):
            return _run(self, hidden_states[0], parts, tree, (cos[0], sin[0]), dtype)[None]


def fuse(model: Any) -> str | None:
    """Fuse a model's layers. Returns why not, in one line, or None when it is done.

    Args:
        model: a causal model of transformers, or PEFT's wrapper of one.
    """
    reason = next(_unsuited(model), None)
    if reason is None:
        for layer in model.get_decoder().layers:
            layer.__class__ = _fused(type(layer))
    return reason


def unfuse(model: Any) -> None:
    """Give the layers their own class back."""
    for layer in model.get_decoder().layers:
        unfuse_layer(layer)


def unfuse_layer(layer: Any) -> None:
    """Give one layer its own class back."""
    if isinstance(layer, FusedLayer):
        layer.__class__ = type(layer).__mro__[2]


_fused_classes: dict[type[nn.Module], type[nn.Module]] = {}


def _fused(own: type[nn.Module]) -> type[nn.Module]:
    """The class of a fused layer; of its own class's name, which wrapping policies look for."""
    if own not in _fused_classes:
        _fused_classes[own] = type(own.__name__, (FusedLayer, own), {})
    return _fused_classes[own]


def _unsuited(model: Any) -> Iterator[str]:
    config = text_config(model)
    reason = next(family_reasons(config), None)
    if reason is not None:
        yield reason
        return
    if config._attn_implementation != TREE_ATTENTION:
        yield f"fused kernels need tree attention, not {config._attn_implementation!r}"
    for number, layer in enumerate(model.get_decoder().layers):
        if isinstance(layer, FusedLayer):
            yield f"layer {number} is fused already"
        elif _parts(layer) is None:
            yield f"layer {number} has adapters or hooks that fused kernels don't know"


def _parts(layer: Any) -> list[Part] | None:
    """The tensors of q, k, v, o, gate, up and down; None when one has more to do than a product."""
    attention, mlp = layer.self_attn, layer.mlp
    if any(hooked(module) for module in (attention, mlp, *norms(layer))):
        return None
    modules = [layer.get_submodule(name) for name in LINEARS]
    parts = [part for module in modules if (part := part_of(module)) is not None]
    return parts if len(parts) == len(modules) else None


def _run(
    layer: Any,
    x: Tensor,
    parts: Sequence[Part],
    tree: Tree,
    tables: tuple[Tensor, Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """The layer on [S, D], computing in `dtype`."""
    attention = layer.self_attn
    size = attention.head_dim
    heads = Heads(len(parts[0].weight) // size, len(parts[1].weight) // size, size)
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    qkv, x = norm_project(x, first.weight, first.variance_epsilon, parts[:3], dtype)
    if hasattr(attention, "q_norm"):
        query_norm, key_norm = attention.q_norm, attention.k_norm
        qkv = head_norm(
            qkv.view(-1, heads.total, size),
            (heads.query, heads.shared),
            query_norm.weight,
            key_norm.weight,
            query_norm.variance_epsilon,
        ).view_as(qkv)
    attended = rotary_tree_attention(
        qkv, tables, Layout.of(tree, heads), attention.scaling, layer_window(attention)
    )
    x = project_add(attended, x, parts[3])
    gate_up, x = norm_project(x, second.weight, second.variance_epsilon, parts[4:6], dtype)
    return gated_project_add(gate_up, x, parts[6])
