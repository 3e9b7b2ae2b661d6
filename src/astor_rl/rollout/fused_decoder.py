"""A model of the Llama family run without its modules: fewer, larger operations for each token.

Decoding a few rows of a small model is mostly the cost of starting operations: transformers' layer
starts about sixty, this one twenty, and projections of the same input are one product.

Shapes: N tokens of one forward, D model size, H query heads, K key-value heads, S head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from astor_rl.llama_family import LINEARS, family_reasons, hooked, layer_window, norms, patched
from astor_rl.rollout.cache import DecodeBatch, PrefillBatch
from astor_rl.rollout.joined_linear import JoinedLinear, JoinedPart
from astor_rl.rollout.packed_linear import restore

_JOINED = (slice(0, 3), slice(3, 4), slice(4, 6), slice(6, 7))
"""Which of `LINEARS` read the same input: q, k, v; o; gate, up; down."""


Batch = PrefillBatch | DecodeBatch
"""What keeps keys and values, and attends to them."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's own module, for its norms and sizes, and its products."""

    module: Any
    qkv: JoinedLinear
    o: JoinedLinear
    gate_up: JoinedLinear
    down: JoinedLinear

    def run(self, x: Tensor, cos: Tensor, sin: Tensor, number: int, batch: Batch) -> Tensor:
        """The residual stream [N, D] after the layer; cos, and sin with its signs, [N, 1, S]."""
        attention = self.module.self_attn
        size, shared = attention.head_dim, attention.config.num_key_value_heads
        heads_NCS = self.qkv(_normed(x, self.module.input_layernorm)).view(len(x), -1, size)
        query = heads_NCS.shape[1] - 2 * shared
        turned = heads_NCS[:, : query + shared]
        if hasattr(attention, "q_norm"):
            parts = (turned[:, :query], turned[:, query:])
            own = attention.q_norm, attention.k_norm
            turned = torch.cat([_normed(p, norm) for p, norm in zip(parts, own, strict=True)], 1)
        turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
        attended = batch.attend(
            number,
            turned[:, :query],
            turned[:, query:],
            heads_NCS[:, query + shared :],
            scale=attention.scaling,
            window=layer_window(attention),
            softcap=None,
        )
        x = self.o(attended.reshape(len(x), -1), x)
        gate, up = self.gate_up(_normed(x, self.module.post_attention_layernorm)).chunk(2, 1)
        return self.down(silu(gate).mul_(up), x)


def _normed(x: Tensor, norm: Any) -> Tensor:
    return rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


class FusedDecoder:
    """Runs a model through joined products; the model keeps everything else.

    Its linear modules give their place to `JoinedPart`s, so that weights are still replaced by
    name. Check what it computes before the originals are thrown away.

    Args:
        model: a frozen causal model that `unsuited` has no reason against.
        packed: whether weights are laid out for oneDNN's bf16 kernels.

    Attributes:
        originals: the linear modules that were there, by name, until `keep`.
    """

    def __init__(self, model: Any, *, packed: bool) -> None:
        self._model = model
        names = {module: name for name, module in model.named_modules()}
        parts: dict[str, JoinedPart] = {}
        self.originals: dict[str, nn.Linear] = {}
        self._layers: list[_Layer] = []
        for layer in _layers(model):
            linears = [layer.get_submodule(name) for name in LINEARS]
            products = [JoinedLinear(linears[same], packed=packed) for same in _JOINED]
            self._layers.append(_Layer(layer, *products))
            for joined, same in zip(products, _JOINED, strict=True):
                for number, linear in enumerate(linears[same]):
                    self.originals[names[linear]] = linear
                    parts[names[linear]] = JoinedPart(joined, number)
        # Only now: whatever fails above leaves the model as it was.
        for name, part in parts.items():
            model.set_submodule(name, part)

    def restore(self) -> None:
        """Put the linear modules back."""
        restore(self._model, self.originals)

    def keep(self) -> int:
        """Let the linear modules go, whose weights are held twice till then; how many there are."""
        count = len(self.originals)
        self.originals.clear()
        return count

    def forget(self) -> None:
        """Drop weights that wait for the others of their product."""
        for layer in self._layers:
            for joined in (layer.qkv, layer.o, layer.gate_up, layer.down):
                joined.forget()

    def __call__(self, ids: Tensor, positions: Tensor, batch: Batch, keep: Tensor | None) -> Tensor:
        """Logits [N, V], or of the tokens `keep` only."""
        decoder = self._model.get_decoder()
        x = decoder.embed_tokens(ids)
        cos, sin = decoder.rotary_emb(x[None], positions[None])
        cos, sin = cos[0, :, None], _signed(sin[0, :, None])
        for number, layer in enumerate(self._layers):
            x = layer.run(x, cos, sin, number, batch)
        x = x if keep is None else x[keep]
        logits: Tensor = self._model.get_output_embeddings()(_normed(x, decoder.norm))
        return logits


def _signed(sin: Tensor) -> Tensor:
    """With the signs of a rotation whose halves are exchanged."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)


def _layers(model: Any) -> Sequence[Any]:
    layers: Sequence[Any] = model.get_decoder().layers
    return layers


def unsuited(model: Any) -> str | None:
    """Why a model can't be run so, in one line, or None."""
    try:
        return next(_reasons(model), None)
    except AttributeError as error:
        return f"it isn't built like its model type: {error}"


def _reasons(model: Any) -> Iterator[str]:
    config = model.config.get_text_config()
    reason = next(family_reasons(config), None)
    if reason is not None:
        yield reason
        return
    decoder = model.get_decoder()
    if any(patched(part, config.model_type) for part in (model, decoder, decoder.norm)):
        yield "the model or its last norm is another than transformers' own, or has hooks"
    seen: set[nn.Module] = set()
    for number, layer in enumerate(_layers(model)):
        linears = [layer.get_submodule(name) for name in LINEARS]
        if any(type(linear) is not nn.Linear or "forward" in vars(linear) for linear in linears):
            yield f"layer {number} has linear layers of another type"
        if len(seen | {*linears}) < len(seen) + len(linears):
            yield f"layer {number} shares linear layers"
        seen |= {*linears}
        modules = (layer, layer.self_attn, layer.mlp, *norms(layer))
        if any(patched(module, config.model_type) for module in modules):
            yield f"layer {number} has parts other than transformers' own, or hooks"
        if any(hooked(module) for module in (*linears, layer.mlp.act_fn)):
            yield f"layer {number} has hooks"
