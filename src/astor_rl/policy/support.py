"""What a model is made of, and whether that allows packing (docs/method.md, Packing)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from astor_rl.errors import CapabilityError
from astor_rl.policy.head import logit_transform
from astor_rl.policy.tree_attention import TREE_ATTENTION

FULL, SLIDING = "full_attention", "sliding_attention"
_LAYERS = frozenset({FULL, SLIDING})
_ATTENTION = ("sdpa", "eager", "flex_attention", TREE_ATTENTION)


def text_config(model: Any) -> Any:
    """The language model's configuration, also of a model that has other parts."""
    return model.config.get_text_config()


def sliding_window(config: Any) -> int | None:
    """The window of sliding layers in tokens, or None."""
    if not getattr(config, "use_sliding_window", True):
        return None
    window = getattr(config, "sliding_window", None)
    return None if window is None else int(window)


def layer_kinds(config: Any) -> frozenset[str]:
    """The kinds of attention layers; models without the list use their window in all layers."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = [FULL if sliding_window(config) is None else SLIDING]
    return frozenset(kinds)


def packing_note(model: Any) -> str | None:
    """What packing changes without making it wrong, in one line, or None."""
    config = text_config(model)
    if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts")):
        return (
            "mixture of experts: the router's auxiliary loss is not part of the step, and routing "
            "statistics count a prompt's tokens once for its group"
        )
    return None


def unpackable_reasons(model: Any) -> Iterator[str]:
    """Reasons that can be read off, most fundamental first."""
    config = text_config(model)
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        yield f"{kind} is an encoder-decoder"
    strange = sorted(layer_kinds(config) - _LAYERS)
    if strange or getattr(model, "_is_stateful", False):
        layers = ", ".join(strange) or "recurrent"
        yield f"{kind} has {layers} layers, which carry state from one completion to the next"
    for rope in _rope_types(getattr(config, "rope_parameters", None)):
        if "dynamic" in rope or rope == "longrope":
            yield f"{kind} has {rope} RoPE, whose frequencies depend on the longest sequence"
    if config._attn_implementation not in _ATTENTION:
        yield (
            f"attention {config._attn_implementation!r} takes no tree mask; load the model with "
            f"attn_implementation one of {_ATTENTION[:3]}"
        )
    for name, module in model.named_modules():
        if _dropout(module) > 0:
            yield (
                f"dropout {_dropout(module)} at {name} would be shared by a group's completions; "
                "set it to 0 to pack"
            )
    for adapter in getattr(model, "peft_config", {}).values():
        if getattr(adapter, "is_prompt_learning", False):
            yield "prompt-learning adapters put tokens before the prompt"
    try:
        logit_transform(config)
    except CapabilityError as error:
        yield str(error)


def _rope_types(parameters: Any) -> Iterator[str]:
    """RoPE types, also where each kind of layer has its own."""
    if isinstance(parameters, Mapping):
        if "rope_type" in parameters:
            yield str(parameters["rope_type"])
        for value in parameters.values():
            yield from _rope_types(value)


def _dropout(module: torch.nn.Module) -> float:
    """A module's dropout, also where attention keeps it as a number for a functional call."""
    rate = module.p if isinstance(module, torch.nn.Dropout) else 0.0
    for name in ("attention_dropout", "attn_dropout"):
        value = getattr(module, name, 0.0)
        if isinstance(value, float):
            rate = max(rate, value)
    return rate
