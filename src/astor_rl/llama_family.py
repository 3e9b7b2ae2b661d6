"""What is known of models whose layers are a norm, attention, a norm and a gated MLP.

Sampler and trainer both run such layers by themselves, in fewer passes than the modules do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers are that."""

LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""A layer's linear modules."""


def family_reasons(config: Any) -> Iterator[str]:
    """Why a model isn't of the family, by its text configuration; nothing if it is."""
    if config.model_type not in FAMILY:
        yield f"no fused kernels for model type {config.model_type!r}, only for {FAMILY}"
    elif config.hidden_act not in ("silu", "swish"):
        yield f"no fused kernels for hidden_act {config.hidden_act!r}, only for 'silu'"


def hooked(module: Any) -> bool:
    """Whether calling the module does more than its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def patched(module: Any, model_type: str) -> bool:
    """Whether a module isn't transformers' own of that model type, as it stands there."""
    home = f"transformers.models.{model_type}.modeling_{model_type}"
    return type(module).__module__ != home or "forward" in vars(module) or hooked(module)


def norms(layer: Any) -> list[Any]:
    """All norms of a layer; Qwen3 has two more than others, on heads."""
    attention = layer.self_attn
    inner = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
    return [layer.input_layernorm, layer.post_attention_layernorm, *inner]


def layer_window(attention: Any) -> int | None:
    """A layer's sliding window, tokens; Mistral keeps it in its configuration only."""
    if hasattr(attention, "sliding_window"):
        window = attention.sliding_window
    else:
        window = None
        if attention.config.model_type == "mistral":
            window = attention.config.sliding_window
    return None if window is None else int(window)
