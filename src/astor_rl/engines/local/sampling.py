"""Which sampler a run gets: `rollout.backend`, and what is installed here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from astor_rl.config import RolloutConfig, RunConfig
from astor_rl.engines.local.model import LoadedModel, stop_token_ids
from astor_rl.engines.preparation import PreparedTask
from astor_rl.errors import CapabilityError
from astor_rl.rollout import vllm_engine
from astor_rl.rollout.base import Sampler
from astor_rl.rollout.transformers import TransformersSampler
from astor_rl.rollout.vllm import VllmSampler


def make_sampler(
    config: RunConfig,
    loaded: LoadedModel,
    tasks: Sequence[PreparedTask],
    *,
    device: torch.device,
    note: Callable[[str], None],
) -> Sampler:
    """A sampler with the model's weights.

    Args:
        config: the run.
        loaded: the model; its weights are copied.
        tasks: what will be sampled for: their longest prompt and completion bound vLLM's memory.
        device: where to sample.
        note: told, in one line, which backend was taken and why.

    Raises:
        DependencyError: `rollout.backend` is `vllm`, which is not installed.
        CapabilityError: it is `vllm`, which can't run this model here.
    """
    return open_sampler(
        config.rollout,
        loaded,
        dtype=config.dtype,
        max_length=longest(config, tasks),
        device=device,
        note=note,
    )


def open_sampler(
    options: RolloutConfig,
    loaded: LoadedModel,
    *,
    dtype: Literal["bfloat16", "float32"],
    max_length: int,
    device: torch.device,
    note: Callable[[str], None],
) -> Sampler:
    """As `make_sampler`, for lengths that are known: prompt and completion together, tokens.

    Raises:
        DependencyError: the backend is `vllm`, which is not installed.
        CapabilityError: it is `vllm`, which can't run this model here.
    """
    common: dict[str, Any] = {
        "decode": functools.partial(loaded.tokenizer.decode, skip_special_tokens=True),
        "stop_token_ids": stop_token_ids(loaded.tokenizer, loaded.model),
        "dtype": torch.bfloat16 if dtype == "bfloat16" else torch.float32,
        "device": device,
        "max_rows": options.max_rows,
        "kv_cache_bytes": int(options.kv_cache_gib * 2**30),
    }
    reason = ""
    if options.backend == "vllm" or (options.backend == "auto" and vllm_engine.installed()):
        try:
            sampler: Sampler = VllmSampler(loaded.model, **common, max_length=max_length)
        except CapabilityError as error:
            if options.backend == "vllm":
                raise
            reason = f": {error}"
        else:
            note("rollouts: vLLM")
            return sampler
    note(f"rollouts: transformers{reason}")
    return TransformersSampler(loaded.model, **common)


def longest(config: RunConfig, tasks: Sequence[PreparedTask]) -> int:
    """Tokens of the longest prompt with the longest completion of its task, >= 1."""
    return max(
        max((len(ids) for _, ids in task.prompts.values()), default=0)
        + (task.config.max_completion_length or config.max_completion_length)
        for task in tasks
    )
