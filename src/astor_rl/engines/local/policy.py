"""The model being trained, its reference, and the forward passes an update needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn

from astor_rl.config import LoraConfig
from astor_rl.engines.local.memory import keep_freed_memory
from astor_rl.engines.local.model import (
    LoadedModel,
    ReferencePolicy,
    add_lora,
    cast_parameters,
    merged_named_tensors,
)
from astor_rl.errors import StateError
from astor_rl.policy.forward import (
    completion_logprobs,
    completion_logprobs_and_entropies,
    prepare_packing,
)
from astor_rl.policy.fused.check import fuse_kernels
from astor_rl.policy.packing import Packed
from astor_rl.rollout.base import Sampler


class Policy:
    """A causal LM under training, with the reference it is held to.

    The optimised parameters are float32 whatever the compute type is. With LoRA the frozen base is
    stored in the compute type; with all weights trained, autocast converts them for each bin.

    Args:
        loaded: the model; taken over (wrapped, moved, converted).
        lora: the adapter's settings; None or `enabled = false` trains all weights.
        device: where to compute.
        dtype: compute type of matrix products.
        temperature: the sampling temperature; log-probs are of the scaled distribution.
        with_reference: keep the policy as it is now as the reference.
        checkpointing: recompute activations in the backward pass, to save memory.
        fused_kernels: `auto` fuses the layers of models that allow it (see `policy.fused`), `off`
            leaves the model as it is.

    Attributes:
        model: the transformers model, or PEFT's wrapper of it.
        tokenizer: its tokenizer.
        silenced: how many dropouts were switched off: log-probs must be a function of the weights,
            or the importance ratios and the KL to the reference are noise.
        unpackable: why groups can't be packed and run as separate sequences, or None.
        unfused: why the model keeps its own layers, or None when they are fused.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        lora: LoraConfig | None,
        device: torch.device,
        dtype: torch.dtype,
        temperature: float = 1.0,
        with_reference: bool = True,
        checkpointing: bool = False,
        fused_kernels: Literal["auto", "off"] = "auto",
    ) -> None:
        self.tokenizer = loaded.tokenizer
        if device.type == "cpu":
            keep_freed_memory()
        self._device = device
        self._dtype = dtype
        self._temperature = temperature
        adapter = lora if lora is not None and lora.enabled else None
        base = cast_parameters(loaded.model, dtype if adapter else torch.float32, device)
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.enable_input_require_grads()
        self.model: nn.Module = base
        self._adapted = adapter is not None
        if adapter:
            self.model = add_lora(
                base,
                r=adapter.r,
                alpha=adapter.lora_alpha,
                target_modules=adapter.target_modules,
            )
        else:
            self.model.requires_grad_(True)
        # In training mode, dropout or not: gradient checkpointing works in no other.
        self.model.train()
        self.silenced = _silence_dropout(self.model)
        # Before the reference is copied, so that both attend in the same way.
        self.unpackable = prepare_packing(self.model)
        self.unfused = self._fuse(fused_kernels)
        self._reference = ReferencePolicy(self.model, dtype=dtype) if with_reference else None

    def _fuse(self, fused_kernels: Literal["auto", "off"]) -> str | None:
        """Also before the reference is copied, so that both round in the same way."""
        if fused_kernels == "off":
            return "fused_kernels is 'off'"
        if self._unpacked:
            return "groups run as separate sequences"
        return fuse_kernels(self.model)

    def named_trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The optimised parameters by name, in a fixed order."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    @property
    def trainable(self) -> list[nn.Parameter]:
        """The optimised parameters, in the same order."""
        return [parameter for _, parameter in self.named_trainable()]

    def logprobs(self, packed: Packed) -> Tensor:
        """Log-probs of a bin's completion tokens under the policy, fp32 [T], with a graph."""
        with self._autocast():
            return completion_logprobs(
                self.model, packed, self._temperature, unpacked=self._unpacked
            )

    def logprobs_and_entropies(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """The same, and the entropies of the distributions they are of, nats, without a graph."""
        with self._autocast():
            return completion_logprobs_and_entropies(
                self.model, packed, self._temperature, unpacked=self._unpacked
            )

    def reference_logprobs(self, packed: Packed) -> Tensor:
        """The same under the reference policy, without a graph."""
        if self._reference is None:
            raise StateError("this policy was made without a reference")
        with self._reference.use() as model, self._autocast():
            return completion_logprobs(model, packed, self._temperature, unpacked=self._unpacked)

    @property
    def _unpacked(self) -> bool:
        return self.unpackable is not None

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        if self._dtype == torch.float32:
            yield
            return
        # PEFT converts an adapter's input to the adapter's float32, and autocast converts it back:
        # two copies of every activation for nothing. Leaving autocast drops its converted
        # weights, so they are never stale.
        with (
            torch.autocast(self._device.type, self._dtype),
            disable_input_dtype_casting(self.model) if self._adapted else nullcontext(),
        ):
            yield

    def update_sampler(self, sampler: Sampler, *, revision: int) -> None:
        """Hand the current weights, adapter merged, to a sampler."""
        sampler.update_weights(merged_named_tensors(self.model), revision=revision)

    def load_trainable(self, weights: Mapping[str, Tensor]) -> None:
        """Restore the optimised parameters. Raises `StateError` on other names or shapes."""
        mine = dict(self.named_trainable())
        if mine.keys() != weights.keys():
            odd = sorted(mine.keys() ^ weights.keys())
            raise StateError(
                f"saved weights are of another model or adapter: {len(odd)} names differ, "
                f"such as {odd[0]!r}"
            )
        for name, parameter in mine.items():
            if parameter.shape != weights[name].shape:
                raise StateError(
                    f"saved weight {name!r} has shape {tuple(weights[name].shape)}, "
                    f"the model's has {tuple(parameter.shape)}"
                )
            parameter.data.copy_(weights[name])


def _silence_dropout(model: nn.Module) -> int:
    """Set every dropout to 0, also those that attention keeps as a number. Returns how many."""
    changed = 0
    for module in model.modules():
        names = ["p"] if isinstance(module, nn.Dropout) else []
        for name in (*names, "attention_dropout", "attn_dropout"):
            rate = getattr(module, name, None)
            if isinstance(rate, float) and rate > 0:
                setattr(module, name, 0.0)
                changed += 1
    return changed
