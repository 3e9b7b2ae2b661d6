"""Sampling alone: `python -m benchmarks.step.samplers SETTING sampler|generate DTYPE`.

The same prompts, ends and limits for our transformers sampler and for transformers' `generate`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from astor_rl.engines.local.model import LoadedModel, load_model, render_prompt, stop_token_ids
from astor_rl.rollout.base import Request
from astor_rl.rollout.transformers import TransformersSampler
from benchmarks.step.side import Answers, Meter, Setting, told_to_go

Round = Callable[[int], int]
"""Samples once, given a seed; returns how many tokens."""


def _sampler(
    loaded: LoadedModel, setting: Setting, prompts: list[list[int]], dtype: torch.dtype
) -> Round:
    sampler = TransformersSampler(
        loaded.model,
        decode=functools.partial(loaded.tokenizer.decode, skip_special_tokens=True),
        stop_token_ids=stop_token_ids(loaded.tokenizer, loaded.model),
        dtype=dtype,
    )

    def go(seed: int) -> int:
        requests = [
            Request(i, (), tuple(ids), setting.generations, setting.tokens, seed * len(prompts) + i)
            for i, ids in enumerate(prompts)
        ]
        return sum(len(rollout.completion_ids) for _, rollout in sampler.sample(requests))

    return go


def _generate(
    loaded: LoadedModel, setting: Setting, prompts: list[list[int]], dtype: torch.dtype
) -> Round:
    """One left-padded batch, transformers' own cache."""
    model: Any = loaded.model.to(dtype)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    end = loaded.tokenizer.eos_token_id

    def go(seed: int) -> int:
        torch.manual_seed(seed)
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=setting.tokens,
            num_return_sequences=setting.generations,
            pad_token_id=0,
        )[:, longest:]
        if end is None:
            return int(out.numel())
        ends = (out == end).long()
        return int((ends.cumsum(dim=1) - ends == 0).sum())

    return go


def main() -> None:
    """Sample once for each line of standard input."""
    answers = Answers()
    setting, kind = Setting.load(sys.argv[1]), sys.argv[2]
    dtype = torch.bfloat16 if sys.argv[3] == "bfloat16" else torch.float32
    loaded = load_model(setting.folder, dtype=torch.bfloat16)
    prompts = [
        list(render_prompt(loaded.tokenizer, row["prompt"])) for row in setting.prompt_rows()
    ]
    make = _sampler if kind == "sampler" else _generate
    go = make(loaded, setting, prompts, dtype)
    answers.ready()
    seed = 0
    while told_to_go():
        seed += 1
        meter = Meter()
        generated = go(seed)
        answers.say(**meter.read(), generated=generated)


if __name__ == "__main__":
    main()
