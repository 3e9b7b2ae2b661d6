"""Fuse a model's layers only where they compute what the model's own do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from astor_rl.policy.forward import completion_logprobs, trial_bin
from astor_rl.policy.fused.layer import fuse, unfuse, unfuse_layer
from astor_rl.policy.support import text_config

TOLERANCE = 1e-3
"""Largest relative difference of a layer's output and gradients, in fp32, that a trial accepts."""

_ADAPTER_STD = 0.02
"""Of what stands in for an adapter's zeros: a product with zeros would hide half of it."""


def fuse_kernels(model: Any) -> str | None:
    """Fuse the decoder layers of a model that `forward.prepare_packing` prepared, and check them.

    Every layer is tried alone, on a copy in fp32, with the hidden states of a few packed tokens:
    its output and its gradients must be those of the model's own layer. In a 16-bit type, and
    through all layers, rounding differs by more than any mistake worth finding. Where a layer
    differs, the model is left as it was.

    Args:
        model: a causal model of transformers, or PEFT's wrapper of one.

    Returns:
        Why the model keeps its own layers, in one line, or None when they are fused.
    """
    calls = _calls(model)
    if reason := fuse(model):
        return reason
    reason = next(_differences(model, calls), None)
    if reason is not None:
        unfuse(model)
    return reason


@torch.no_grad()
def _calls(model: Any) -> list[tuple[Tensor, dict[str, Any]]]:
    """What each layer is called with in a trial run: hidden states, keyword arguments."""
    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args[0], kwargs))

    handles = [
        layer.register_forward_pre_hook(note, with_kwargs=True)
        for layer in model.get_decoder().layers
    ]
    try:
        completion_logprobs(model, trial_bin(int(text_config(model).vocab_size)))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _differences(model: Any, calls: list[tuple[Tensor, dict[str, Any]]]) -> Iterator[str]:
    for number, (layer, (hidden, kwargs)) in enumerate(
        zip(model.get_decoder().layers, calls, strict=True)
    ):
        trial = copy.deepcopy(layer).float()
        _fill_adapters(trial)
        kwargs = {name: _in_float(value) for name, value in kwargs.items()}
        fused = _output_and_gradients(trial, hidden.float(), kwargs)
        unfuse_layer(trial)
        own = _output_and_gradients(trial, hidden.float(), kwargs)
        for what, mine, theirs in zip(("output is", "gradients are"), fused, own, strict=True):
            apart = float((mine - theirs).norm() / theirs.norm().clamp(min=1e-30))
            if not apart <= TOLERANCE:
                yield (
                    f"layer {number}'s fused {what} {apart:.3g} (relative) off the model's own in "
                    f"a trial run; at most {TOLERANCE:g} is right"
                )


def _output_and_gradients(
    layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The layer's output, and in one row the gradients of its input and trainable parameters."""
    hidden = hidden.detach().requires_grad_()
    wanted = [hidden, *(p for p in layer.parameters() if p.requires_grad)]
    with torch.enable_grad(), torch.autocast(hidden.device.type, enabled=False):
        output = layer(hidden, **kwargs)
    output = output[0] if isinstance(output, tuple) else output
    # Weighed unevenly, so that mistakes in different places don't cancel.
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    grads = torch.autograd.grad((output * weights).sum(), wanted, materialize_grads=True)
    return output.detach(), torch.cat([grad.flatten() for grad in grads])


def _fill_adapters(layer: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        if parameter.requires_grad and not parameter.any():
            noise = torch.randn(parameter.shape, generator=generator) * _ADAPTER_STD
            parameter.data.copy_(noise)


def _in_float(value: Any) -> Any:
    """Tensors of a layer's arguments in fp32, masks and everything else as they are."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.float()
    if isinstance(value, tuple):
        return tuple(_in_float(part) for part in value)
    return value
