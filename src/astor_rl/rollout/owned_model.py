"""The sampler's own copy of a model: its weights, and the two ways to run it forward.

The model is transformers' own. For grouped decoding its layers are run by `fused_decoder` where
that is known to be right; else its attention function is replaced through `AttentionInterface`. On
CPUs linear layers are packed for bf16.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig

from astor_rl.errors import CapabilityError
from astor_rl.rollout.cache import DecodeBatch, GroupedCache, Layout, PrefillBatch
from astor_rl.rollout.fused_decoder import FusedDecoder, unsuited
from astor_rl.rollout.joined_linear import JoinedPart
from astor_rl.rollout.names import WeightNames
from astor_rl.rollout.packed_linear import PackedLinear, can_pack, pack_linears, restore

_ATTENTION = "astor_grouped"

_logger = logging.getLogger(__name__)


def _grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    astor_batch: PrefillBatch | DecodeBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function: q [1, H, N, D], k and v [1, K, N, D] -> [1, N, H, D]."""
    for name in ("s_aux", "position_bias", "head_mask"):
        if others.get(name) is not None:
            raise CapabilityError(f"attention with {name!r} is not handled by grouped decoding")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = astor_batch.attend(
        int(module.layer_idx),  # type: ignore[arg-type]
        q,
        k,
        v,
        scale=q.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return out.unsqueeze(0), None


AttentionInterface.register(_ATTENTION, _grouped_attention)


class OwnedModel:
    """A frozen copy of a causal LM, and how to run it.

    Attributes:
        mode: `grouped` (a shared prompt is kept once, any rows decode together) or `plain`
            (transformers' own forward and cache), found out at construction by comparing both on a
            short example; the log says which, and why not `grouped`.
        names: of its weights.
        max_positions: the model's longest sequence, or None when it has no limit.

    Raises:
        CapabilityError: the model is an encoder-decoder, or has unmerged adapters.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._device = device
        self._dtype = dtype
        self._model = _own_copy(model, dtype, device)
        self.names = WeightNames(self._model)
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self.max_positions: int | None = limit
        self._fused: FusedDecoder | None = None
        self.mode: Literal["grouped", "plain"] = self._choose_mode()

    def begin_update(self) -> None:
        """Say that all weights will be set: what an update that failed left over is forgotten."""
        if self._fused is not None:
            self._fused.forget()

    @torch.inference_mode()
    def set_weight(self, name: str, tensor: Tensor) -> None:
        """Copy one parameter, wherever it is tied to.

        Those that are packed together take effect when the last of them has come.

        Raises:
            StateError: the name is unknown or the shape differs.
        """
        self.names.check(name, tensor)
        for alias in self.names.ties[name]:
            owner_name, _, kind = alias.rpartition(".")
            owner = self._model.get_submodule(owner_name)
            if isinstance(owner, JoinedPart):
                owner.take(kind, tensor)
            elif isinstance(owner, PackedLinear) and kind == "weight":
                owner.pack(tensor)
            else:
                owner.get_parameter(kind).copy_(tensor)

    def _choose_mode(self) -> Literal["grouped", "plain"]:
        """Grouped when it computes what the model's own forward computes on a short example."""
        if (reason := _ungrouped(self._model)) is None:
            expected = self._probe_plain()
            if (slow := unsuited(self._model)) is None:
                slow = self._try_fused(expected)
            if slow is None:
                return "grouped"
            _logger.info("rollouts: layers are not fused (%s)", slow)
            if (reason := self._try_grouped(expected)) is None:
                return "grouped"
        _logger.warning("rollouts: plain decoding, which is slower (%s)", reason)
        return "plain"

    def _try_fused(self, expected: Tensor) -> str | None:
        """Run the layers through `FusedDecoder`; why not, and all is as before, or None."""
        packs = can_pack(self._dtype, self._device)
        try:
            fused = FusedDecoder(self._model, packed=packs)
        except (RuntimeError, AttributeError, LookupError) as error:
            return _one_line(error)
        self._fused = fused
        packed = pack_linears(self._model) if packs else {}
        reason = self._reason_against(expected)
        if reason is None:
            count = len(packed) + fused.keep()
            _logger.info(
                "rollouts: grouped decoding, fused, %d linear layers packed", packs * count
            )
            return None
        self._fused = None
        restore(self._model, packed)
        fused.restore()
        return reason

    def _try_grouped(self, expected: Tensor) -> str | None:
        """Give the model our attention; why not, and all is as before, or None."""
        original = self._model.config._attn_implementation
        packed = pack_linears(self._model) if can_pack(self._dtype, self._device) else {}
        try:
            self._model.set_attn_implementation(_ATTENTION)
        except ValueError as error:
            reason: str | None = _one_line(error)
        else:
            reason = self._reason_against(expected)
        if reason is None:
            _logger.info("rollouts: grouped decoding, %d linear layers packed", len(packed))
            return None
        restore(self._model, packed)
        self._model.set_attn_implementation(original)
        return reason

    def _reason_against(self, expected: Tensor) -> str | None:
        try:
            return self._compare(expected)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            return _one_line(error)
        except CapabilityError as error:
            return str(error)

    def _probe_sequences(self) -> list[list[int]]:
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        rng = np.random.default_rng(0)
        first, second = (rng.integers(0, vocabulary, n).tolist() for n in (9, 6))
        ends = rng.integers(0, vocabulary, (3, 3)).tolist()
        return [first + ends[0], second + ends[1], second + ends[2]]

    @torch.inference_mode()
    def _probe_plain(self) -> Tensor:
        """Logits of the last 4 positions of each probe sequence, [3 * 4, V], position-major."""
        logits = [
            self._model(torch.tensor([ids], device=self._device), use_cache=False).logits[0, -4:]
            for ids in self._probe_sequences()
        ]
        return torch.stack(logits, 1).flatten(0, 1)

    @torch.inference_mode()
    def _compare(self, expected: Tensor) -> str | None:
        sequences = self._probe_sequences()
        cache, lengths = GroupedCache(), [len(ids) - 3 for ids in sequences[:2]]
        cache.reserve(groups=2, prompt=max(lengths), rows=3, tokens=3)
        prompts = [ids[:n] for ids, n in zip(sequences, lengths, strict=False)]
        got = [self.prefill(cache, prompts, first_slot=0)[[0, 1, 1]]]
        layout = Layout.of([0, 1, 1], lengths, self._device)
        for step in range(3):
            tokens = [ids[step - 3] for ids in sequences]
            got.append(self.decode(cache, layout, tokens, [step] * 3))
        computed, wanted = torch.cat(got).float(), expected.float()
        spread = (wanted - wanted.mean(-1, keepdim=True)).norm()
        off = float((computed - wanted).norm() / spread.clamp(min=1e-30))
        allowed = 1e-3 if self._dtype in (torch.float32, torch.float64) else 0.1
        return None if off <= allowed else f"its logits differ from the model's own by {off:.1%}"

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        batch: PrefillBatch | DecodeBatch,
        keep: Tensor | None = None,
    ) -> Tensor:
        """One sequence of N tokens -> logits [N or len(keep), V]."""
        if self._fused is not None:
            return self._fused(ids, positions, batch, keep)
        out = self._model(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=0 if keep is None else keep,
            astor_batch=batch,
        )
        logits: Tensor = out.logits[0]
        return logits

    def prefill(
        self, cache: GroupedCache, prompts: Sequence[Sequence[int]], *, first_slot: int
    ) -> Tensor:
        """Compute and keep prompts; logits after the last token of each, [len(prompts), V]."""
        lengths = [len(p) for p in prompts]
        ids = torch.tensor([i for p in prompts for i in p], device=self._device)
        positions = torch.cat([torch.arange(n, device=self._device) for n in lengths])
        last = torch.tensor(lengths, device=self._device).cumsum(0) - 1
        return self._forward(ids, positions, PrefillBatch(cache, lengths, first_slot), last)

    def decode(
        self, cache: GroupedCache, layout: Layout, tokens: Sequence[int], written: Sequence[int]
    ) -> Tensor:
        """Logits after one more token for each row, [R, V]."""
        written_R = torch.tensor(written, device=self._device)
        batch = DecodeBatch(
            cache, layout, written_R, max(written), even=min(written) == max(written)
        )
        ids = torch.tensor(tokens, device=self._device)
        return self._forward(ids, layout.prompt_lengths_R + written_R, batch)

    @torch.inference_mode()
    def plain(self, sequences: Sequence[Sequence[int]], past: Any) -> tuple[Tensor, Any]:
        """Transformers' own way: next logits [len(sequences), V], and its cache for the next call.

        Args:
            sequences: equally long: whole sequences without `past`, the newest tokens with it.
            past: what the previous call returned, or None. A model that returns no cache is given
                whole sequences every time.
        """
        ids = torch.tensor(sequences, device=self._device)
        cache = {} if past is None else {"past_key_values": past}
        out = self._model(ids, use_cache=True, **cache)
        return out.logits[:, -1], getattr(out, "past_key_values", None)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _own_copy(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A frozen copy with cast parameters; buffers (rotary frequencies) keep their precision."""
    if isinstance(model, PreTrainedConfig):
        own = AutoModelForCausalLM.from_config(copy.deepcopy(model), dtype=dtype)
    else:
        if hasattr(model, "peft_config"):
            raise CapabilityError("the sampler takes a plain model; merge the adapter first")
        # Parameters are cast one by one inside the copy: never a second full-precision model.
        cast: dict[int, Any] = {
            id(p): nn.Parameter(
                p.detach().to(device, dtype if p.is_floating_point() else p.dtype, copy=True),
                requires_grad=False,
            )
            for p in model.parameters()
        }
        own = copy.deepcopy(model, cast)
    if getattr(own.config, "is_encoder_decoder", False):
        raise CapabilityError("the sampler takes decoder-only models; this is an encoder-decoder")
    return own.to(device).eval().requires_grad_(False)


def _ungrouped(model: Any) -> str | None:
    """Why grouped decoding can't be right for a model, whatever a short example shows."""
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} has an attention of its own"
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if others := kinds - {"full_attention", "sliding_attention"}:
        return f"layers of type {sorted(others)}"
    rope = getattr(config, "rope_parameters", None) or {}
    for entry in (rope, *(v for v in rope.values() if isinstance(v, dict))):
        if entry.get("rope_type") in {"dynamic", "longrope"}:
            return f"rotary embedding of type {entry['rope_type']!r} depends on the whole batch"
    return None
