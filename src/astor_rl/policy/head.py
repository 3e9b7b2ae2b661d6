"""From hidden states to log-probs of chosen tokens, without all logits alive at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from astor_rl.errors import CapabilityError

CHUNK_ELEMENTS = 2**26
"""Logits of one chunk: 128 MiB in bfloat16, about 1,360 tokens of a 49k vocabulary."""

KEPT_ELEMENTS = 2**28
"""Logits that are kept for the backward pass, at most: 512 MiB in bfloat16."""

_SLICE_ELEMENTS = 2**19
"""Logits worked on in float32 at a time by each thread: 2 MiB, a core's cache."""

_GPU_SLICE_ELEMENTS = 2**26
"""The same on any other device, whatever the threads here: a chunk, in 256 MiB of float32."""

LogitTransform = Callable[[Tensor], Tensor]

_UNKNOWN_SCALES = ("lm_head_multiplier", "output_multiplier", "logits_scaling", "logit_scale")
_DIVIDES = ("granite",)
_MULTIPLIES = ("cohere", "cohere2")


def identity(logits: Tensor) -> Tensor:
    """What most models do to their logits: nothing."""
    return logits


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
    if cap is None and divisor == multiplier:
        return identity

    def transform(logits: Tensor) -> Tensor:
        if divisor != 1 or multiplier != 1:
            logits = logits * (multiplier / divisor)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return transform


class _TokenLogprobs(torch.autograd.Function):
    """Log-prob and entropy of logits [C, V] at targets [C], in fp32, saving only the logits.

    Autograd's own cast, log-softmax and gather keep and walk several fp32 copies of [C, V]. Here
    one fp32 copy of a few rows is worked on in place, in the same memory for every slice.
    """

    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, target_C: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logprob_C = torch.empty(len(logits_CV), dtype=torch.float32, device=logits_CV.device)
        lse_C, entropy_C = torch.empty_like(logprob_C), torch.zeros_like(logprob_C)
        outputs = logprob_C, lse_C, entropy_C if with_entropy else None
        _write_stats(logits_CV, target_C, temperature, *outputs)
        ctx.save_for_backward(logits_CV, target_C, lse_C)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_C)
        return logprob_C, entropy_C

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits_CV, target_C, lse_C = ctx.saved_tensors
        grad_CV = torch.empty_like(logits_CV)
        _write_slopes(logits_CV, target_C, lse_C, grads[0], ctx.temperature, grad_CV)
        return grad_CV, None, None, None


class _LinearLogprobs(torch.autograd.Function):
    """Log-prob and entropy from hidden states [T, D] through a frozen output embedding.

    A log-prob's gradient at its hidden state is its own, times a row that is known as soon as the
    logits are: (chosen - softmax) @ weight. So it is made there and then, and logits are neither
    kept nor computed again; the backward pass is one product of [T, D]. All chunks, also those of
    later calls, share the logits' memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        target_T: Tensor,
        weight_VD: Tensor,
        logits: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logprob_T = torch.empty(len(target_T), dtype=torch.float32, device=hidden_TD.device)
        entropy_T = torch.zeros_like(logprob_T)
        slopes: list[Tensor] = []
        scratch = _scratch(logits, 2 if with_entropy else 1)
        for chunk in _chunks(len(target_T), len(logits)):
            target_C = target_T[chunk]
            logits_CV = logits[: len(target_C)]
            torch.mm(hidden_TD[chunk], weight_VD.T, out=logits_CV)
            for rows in _slices(logits_CV):
                stats = _Stats.of(logits_CV[rows], target_C[rows], temperature, scratch)
                logprob_T[chunk][rows] = stats.logprob_C
                if stats.entropy_C is not None:
                    entropy_T[chunk][rows] = stats.entropy_C
                if ctx.needs_input_grad[0]:
                    logits_CV[rows] = stats.slope(target_C[rows])
            if ctx.needs_input_grad[0]:
                slopes.append(logits_CV @ weight_VD)
        ctx.save_for_backward(torch.cat(slopes) if slopes else torch.empty_like(hidden_TD))
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_T)
        return logprob_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope_TD,) = ctx.saved_tensors
        grad_TD = slope_TD.float() * (grads[0] / ctx.temperature)[:, None]
        return grad_TD.to(slope_TD.dtype), None, None, None, None, None


class _TrainedLinearLogprobs(torch.autograd.Function):
    """Log-prob and entropy from hidden states [T, D] through an output embedding that is trained.

    It is converted to the compute type once, and the gradient at it is summed over chunks in its
    own type. Chunks of logits are kept up to `KEPT_ELEMENTS` and else computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        target_T: Tensor,
        weight_VD: Tensor,
        logits: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logprob_T = torch.empty(len(target_T), dtype=torch.float32, device=hidden_TD.device)
        lse_T, entropy_T = torch.empty_like(logprob_T), torch.zeros_like(logprob_T)
        weight = weight_VD.to(hidden_TD.dtype)
        kept: list[Tensor] = []
        for chunk in _chunks(len(target_T), len(logits)):
            target_C = target_T[chunk]
            logits_CV = logits[: len(target_C)]
            if any(ctx.needs_input_grad) and (len(kept) + 1) * logits.numel() <= KEPT_ELEMENTS:
                logits_CV = torch.empty_like(logits_CV)
                kept.append(logits_CV)
            torch.mm(hidden_TD[chunk], weight.T, out=logits_CV)
            outputs = logprob_T[chunk], lse_T[chunk], entropy_T[chunk] if with_entropy else None
            _write_stats(logits_CV, target_C, temperature, *outputs)
        ctx.save_for_backward(hidden_TD, target_T, weight, lse_T, *kept)
        ctx.temperature, ctx.scratch, ctx.dtype = temperature, logits, weight_VD.dtype
        ctx.mark_non_differentiable(entropy_T)
        return logprob_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TD, target_T, weight, lse_T, *kept = ctx.saved_tensors
        grad_hidden_TD = torch.empty_like(hidden_TD)
        grad_weight_VD = torch.zeros_like(weight, dtype=ctx.dtype)
        for number, chunk in enumerate(_chunks(len(target_T), len(ctx.scratch))):
            hidden_CD, target_C = hidden_TD[chunk], target_T[chunk]
            slope_CV = ctx.scratch[: len(target_C)]
            if number < len(kept):
                logits_CV = kept[number]
            else:
                logits_CV = torch.mm(hidden_CD, weight.T, out=slope_CV)
            _write_slopes(
                logits_CV, target_C, lse_T[chunk], grads[0][chunk], ctx.temperature, slope_CV
            )
            torch.mm(slope_CV, weight, out=grad_hidden_TD[chunk])
            grad_weight_VD += slope_CV.T @ hidden_CD
        return grad_hidden_TD, None, grad_weight_VD, None, None, None


class _Stats(NamedTuple):
    """What a softmax over rows of logits knows; `weights_CV` is exp(logit - peak), fp32."""

    weights_CV: Tensor
    total_C: Tensor
    lse_C: Tensor
    logprob_C: Tensor
    entropy_C: Tensor | None

    @classmethod
    def of(
        cls, logits_CV: Tensor, target_C: Tensor, temperature: float, scratch: list[Tensor]
    ) -> _Stats:
        """In one or two buffers of `scratch`; entropies take the second."""
        part = _scaled(logits_CV, temperature, scratch[0])
        chosen = part.gather(1, target_C[:, None])[:, 0]
        peak = part.amax(dim=1, keepdim=True)
        part.sub_(peak)
        weights = torch.exp(part, out=scratch[-1][: len(part)])
        total = weights.sum(dim=1)
        lse_C = peak[:, 0] + total.log()
        entropy = None
        if len(scratch) > 1:
            entropy = total.log() - part.mul_(weights).sum(dim=1) / total
        return cls(weights, total, lse_C, chosen - lse_C, entropy)

    def slope(self, target_C: Tensor) -> Tensor:
        """The log-probs' gradient at the scaled logits; uses `weights_CV` up."""
        slope_CV = self.weights_CV.mul_(-1 / self.total_C[:, None])
        return slope_CV.scatter_add_(1, target_C[:, None], torch.ones_like(self.total_C)[:, None])


def _write_stats(
    logits_CV: Tensor,
    target_C: Tensor,
    temperature: float,
    logprob_C: Tensor,
    lse_C: Tensor,
    entropy_C: Tensor | None,
) -> None:
    scratch = _scratch(logits_CV, 1 if entropy_C is None else 2)
    for rows in _slices(logits_CV):
        stats = _Stats.of(logits_CV[rows], target_C[rows], temperature, scratch)
        lse_C[rows], logprob_C[rows] = stats.lse_C, stats.logprob_C
        if entropy_C is not None and stats.entropy_C is not None:
            entropy_C[rows] = stats.entropy_C


def _write_slopes(
    logits_CV: Tensor,
    target_C: Tensor,
    lse_C: Tensor,
    grad_C: Tensor,
    temperature: float,
    slope_CV: Tensor,
) -> None:
    """Gradients at logits into `slope_CV`, which may be the logits' own memory."""
    grad_C = grad_C / temperature
    (buffer,) = _scratch(logits_CV, 1)
    for rows in _slices(logits_CV):
        part = _scaled(logits_CV[rows], temperature, buffer)
        part.sub_(lse_C[rows, None]).exp_().mul_(-grad_C[rows, None])
        part.scatter_add_(1, target_C[rows, None], grad_C[rows, None])
        slope_CV[rows] = part


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _slices(logits_CV: Tensor) -> Iterator[slice]:
    return _chunks(len(logits_CV), _slice_rows(logits_CV))


def _slice_rows(logits_CV: Tensor) -> int:
    on_cpu = logits_CV.device.type == "cpu"
    elements = _SLICE_ELEMENTS * torch.get_num_threads() if on_cpu else _GPU_SLICE_ELEMENTS
    return max(1, elements // logits_CV.shape[1])


def _scratch(logits_CV: Tensor, buffers: int) -> list[Tensor]:
    """Float32 memory for one slice, the same for all: fresh memory costs more than arithmetic."""
    rows = min(len(logits_CV), _slice_rows(logits_CV))
    return [
        logits_CV.new_empty(rows, logits_CV.shape[1], dtype=torch.float32) for _ in range(buffers)
    ]


def _scaled(logits_CV: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    """A fp32 copy to work on in place: the logits themselves serve a second backward pass."""
    part = buffer[: len(logits_CV)].copy_(logits_CV)
    return part if temperature == 1 else part.div_(temperature)


def _plain(head: Any) -> bool:
    plain = type(head) is nn.Linear and head.bias is None
    return plain and not head._forward_hooks


def _linear_logprobs(
    head: nn.Linear,
    hidden_TD: Tensor,
    target_T: Tensor,
    temperature: float,
    size: int,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    device, dtype = hidden_TD.device.type, hidden_TD.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    logits = _logits_memory(head, max(1, min(size, len(target_T))), dtype)
    with torch.autocast(device, enabled=False):
        inputs = hidden_TD.to(dtype), target_T
        settings = logits, temperature, with_entropy
        result: tuple[Tensor, Tensor]
        if head.weight.requires_grad:
            result = _TrainedLinearLogprobs.apply(  # type: ignore[no-untyped-call]
                *inputs, head.weight, *settings
            )
        else:
            result = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
                *inputs, head.weight.to(dtype), *settings
            )
    return result


_held: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


def _logits_memory(head: nn.Linear, rows: int, dtype: torch.dtype) -> Tensor:
    """Memory for a chunk's logits, on CPUs kept for the next call: the system hands such a size
    out page by page, which costs more than half of the product that fills it."""
    held = _held.get(head)
    if held is None or len(held) < rows or (held.dtype, held.device) != (dtype, head.weight.device):
        held = head.weight.new_empty(rows, head.out_features, dtype=dtype)
        if held.device.type == "cpu":
            _held[head] = held
    return held[:rows]


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
    nothing else is there yet). Through a plain output embedding nothing is computed again up to
    `KEPT_ELEMENTS`, and if it is frozen nothing is kept either. Entropies have no graph and are 0
    when not asked for.

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
    if transform is identity and _plain(head):
        return _linear_logprobs(head, hidden_TD, target_T, temperature, size, with_entropy)
    parts = []
    for start in range(0, max(1, len(target_T)), size):
        inputs = hidden_TD[start : start + size], target_T[start : start + size]
        if torch.is_grad_enabled() and start + size < len(target_T):
            part = checkpoint(logprobs, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            part = logprobs(*inputs)
        parts.append(part)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
