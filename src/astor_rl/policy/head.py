"""From hidden states to log-probs of chosen tokens, without all logits alive at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from astor_rl.errors import CapabilityError

CHUNK_ELEMENTS = 2**26
"""Logits of one chunk: 128 MiB in bfloat16, about 1,360 tokens of a 49k vocabulary."""

_SLICE_ELEMENTS = 2**22

LogitTransform = Callable[[Tensor], Tensor]

_UNKNOWN_SCALES = ("lm_head_multiplier", "output_multiplier", "logits_scaling", "logit_scale")
_DIVIDES = ("granite",)
_MULTIPLIES = ("cohere", "cohere2")


def logit_transform(config: Any) -> LogitTransform:
    """What the model's own forward does to logits after its output embedding.

    Honoured: `final_logit_softcapping` (Gemma), `logits_scaling` of the Granite family (divides)
    and `logit_scale` of Cohere (multiplies).

    Args:
        config: the text model's configuration.

    Raises:
        CapabilityError: the configuration scales logits in a way not known here.
    """
    kind = str(config.model_type)
    divisor, multiplier = 1.0, 1.0
    for name in _UNKNOWN_SCALES:
        scale = getattr(config, name, None)
        if scale is None or scale == 1:
            continue
        if name == "logits_scaling" and kind.startswith(_DIVIDES):
            divisor = float(scale)
        elif name == "logit_scale" and kind in _MULTIPLIES:
            multiplier = float(scale)
        else:
            raise CapabilityError(
                f"model type {kind!r} scales its logits by {name} = {scale!r}; log-probs are only "
                "computed for models whose scaling is known"
            )
    cap = getattr(config, "final_logit_softcapping", None)

    def transform(logits: Tensor) -> Tensor:
        if divisor != 1 or multiplier != 1:
            logits = logits * (multiplier / divisor)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return transform


class _TokenLogprobs(torch.autograd.Function):
    """Log-prob and entropy of logits [C, V] at targets [C], in fp32, saving only the logits.

    Autograd's own cast, log-softmax and gather keep and walk several fp32 copies of [C, V]. Here
    one fp32 copy of a few rows is worked on in place, small enough to be reused from slice to
    slice: on CPU, fresh memory costs more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, target_C: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        lse_C = torch.empty(len(logits_CV), dtype=torch.float32, device=logits_CV.device)
        logprob_C, entropy_C = torch.empty_like(lse_C), torch.zeros_like(lse_C)
        for rows in _slices(logits_CV):
            part = _scaled(logits_CV[rows], temperature)
            chosen = part.gather(1, target_C[rows, None])[:, 0]
            peak = part.amax(dim=1, keepdim=True)
            part.sub_(peak)
            weights = part.exp() if with_entropy else part.exp_()
            total = weights.sum(dim=1)
            lse_C[rows] = peak[:, 0] + total.log()
            logprob_C[rows] = chosen - lse_C[rows]
            if with_entropy:
                entropy_C[rows] = total.log() - weights.mul_(part).sum(dim=1) / total
        ctx.save_for_backward(logits_CV, target_C, lse_C)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_C)
        return logprob_C, entropy_C

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits_CV, target_C, lse_C = ctx.saved_tensors
        grad_C = grads[0] / ctx.temperature
        grad_CV = torch.empty_like(logits_CV)
        for rows in _slices(logits_CV):
            part = _scaled(logits_CV[rows], ctx.temperature)
            part.sub_(lse_C[rows, None]).exp_().mul_(-grad_C[rows, None])
            part.scatter_add_(1, target_C[rows, None], grad_C[rows, None])
            grad_CV[rows] = part
        return grad_CV, None, None, None


def _slices(logits_CV: Tensor) -> Iterator[slice]:
    rows, columns = logits_CV.shape
    step = max(1, _SLICE_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    """A fp32 copy to work on in place: the logits themselves serve a second backward pass."""
    part = logits.to(torch.float32, copy=True)
    return part if temperature == 1 else part.div_(temperature)


def token_logprobs(
    hidden_TD: Tensor,
    target_T: Tensor,
    head: Any,
    transform: LogitTransform,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probs of `target_T` and, if asked, entropies, fp32 [T] each, nats.

    Logits exist for `chunk` tokens at a time; with a graph, each chunk but the last is computed
    again in the backward pass instead of being kept (the last is kept: it is needed first, when
    nothing else is there yet). Entropies have no graph and are 0 when not asked for.

    Args:
        hidden_TD: the decoder's last hidden states of the predicting rows.
        target_T: int64.
        head: the output embedding, adapters included.
        transform: see `logit_transform`.
        temperature: the sampler's, > 0; divides the logits.
        chunk: tokens, >= 1; None: as many as `CHUNK_ELEMENTS` allows.
        with_entropy: one more pass over the logits.
    """

    def logprobs(hidden_CD: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
        logits_CV = transform(head(hidden_CD))
        result: tuple[Tensor, Tensor] = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            logits_CV, target_C, temperature, with_entropy
        )
        return result

    size = chunk or max(1, CHUNK_ELEMENTS // int(head.out_features))
    parts = []
    for start in range(0, max(1, len(target_T)), size):
        inputs = hidden_TD[start : start + size], target_T[start : start + size]
        if torch.is_grad_enabled() and start + size < len(target_T):
            part = checkpoint(logprobs, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            part = logprobs(*inputs)
        parts.append(part)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
