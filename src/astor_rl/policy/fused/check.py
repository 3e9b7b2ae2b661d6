"""Fuse a model's layers only where they compute what the model's own do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from astor_rl.policy.forward import HALF_TOLERANCE, TOLERANCE, completion_logprobs, trial_bin
from astor_rl.policy.fused.layer import fuse, unfuse
from astor_rl.policy.support import text_config

GRADIENT_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
"""Largest relative difference of gradients that the trial run accepts, by the model's type."""

HALF_GRADIENT_TOLERANCE = 0.3
"""The same for 16-bit types: the trial's few tokens average no rounding out."""


def fuse_kernels(model: Any) -> str | None:
    """Fuse the decoder layers of a model that `forward.prepare_packing` prepared, and check it.

    A trial run of a few packed tokens compares log-probs, and gradients of the first layer, with
    those of the model's own layers; where they differ, the model is left as it was.

    Args:
        model: a causal model of transformers, or PEFT's wrapper of one.

    Returns:
        Why the model keeps its own layers, in one line, or None when they are fused.
    """
    own = _trial(model)
    if reason := fuse(model):
        return reason
    reason = _difference(own, _trial(model), model.dtype)
    if reason is not None:
        unfuse(model)
    return reason


def _trial(model: Any) -> tuple[Tensor, Tensor]:
    """Log-probs of the trial's tokens, and the first layer's gradients in one row."""
    packed = trial_bin(int(text_config(model).vocab_size))
    layer = model.get_decoder().layers[0]
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    logprobs_T = completion_logprobs(model, packed)
    if not parameters:
        return logprobs_T.detach(), torch.zeros(1)
    grads = torch.autograd.grad(logprobs_T.mean(), parameters, materialize_grads=True)
    return logprobs_T.detach(), torch.cat([grad.flatten().float() for grad in grads])


def _difference(
    own: tuple[Tensor, Tensor], fused: tuple[Tensor, Tensor], dtype: torch.dtype
) -> str | None:
    apart = float((own[0] - fused[0]).abs().mean())
    allowed = TOLERANCE.get(dtype, HALF_TOLERANCE)
    if not apart <= allowed:
        return (
            f"a trial run's fused log-probs differ by {apart:.3g} on average from the model's own; "
            f"at most {allowed:g} is right"
        )
    apart = float((own[1] - fused[1]).norm() / own[1].norm().clamp(min=1e-30))
    allowed = GRADIENT_TOLERANCE.get(dtype, HALF_GRADIENT_TOLERANCE)
    if not apart <= allowed:
        return (
            f"a trial run's fused gradients differ by {apart:.1%} from the model's own; "
            f"at most {allowed:.0%} is right"
        )
    return None
