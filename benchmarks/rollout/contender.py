"""One way of sampling, in a process of its own: `go` on standard input is a round.

Nobody stops at an end-of-turn token, so that everybody samples the same number of tokens.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Prompts = list[list[int]]
Round = Callable[[int], int]
"""Samples once, given a seed that no other round has; returns the number of tokens."""


def _ours(kind: str, folder: str, prompts: Prompts, generations: int, tokens: int) -> Round:
    from astor_rl.rollout.base import Request
    from astor_rl.rollout.transformers import TransformersSampler
    from astor_rl.rollout.vllm import VllmSampler

    common: dict[str, Any] = {
        "decode": _decoder(folder),
        "stop_token_ids": (),
        "dtype": torch.bfloat16,
        "max_rows": len(prompts) * generations,
    }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    longest = max(map(len, prompts)) + tokens
    sampler = (
        TransformersSampler(model, **common)
        if kind == "transformers"
        else VllmSampler(model, **common, max_length=longest)
    )

    def go(seed: int) -> int:
        requests = [
            Request(i, (), tuple(ids), generations, tokens, seed=seed * len(prompts) + i)
            for i, ids in enumerate(prompts)
        ]
        return sum(len(rollout.logprobs) for _, rollout in sampler.sample(requests))

    return go


def _decoder(folder: str) -> Callable[[Any], str]:
    if not (Path(folder) / "tokenizer.json").is_file():
        return str
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))


def _generate(folder: str, prompts: Prompts, generations: int, tokens: int) -> Round:
    """Transformers' `generate`: one left-padded batch, its own cache."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])

    def go(seed: int) -> int:
        torch.manual_seed(seed)
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            num_return_sequences=generations,
            pad_token_id=0,
        )
        return int(out[:, longest:].numel())

    return go


def _offline(
    folder: str, prompts: Prompts, generations: int, tokens: int, *, logprobs: int | None
) -> Round:
    """vLLM as its documentation starts it: `LLM(...)` and `generate`, engine and all defaults.

    But one: it would leave a core to its scheduler, half of a small machine. Ours uses all.
    """
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    from vllm import LLM, SamplingParams

    longest = max(map(len, prompts)) + tokens
    llm = LLM(
        folder,
        dtype="bfloat16",
        skip_tokenizer_init=True,
        max_model_len=longest,
        max_num_seqs=len(prompts) * generations,
        kv_cache_memory_bytes=4 << 30,
    )
    params = SamplingParams(
        n=generations,
        temperature=1.0,
        max_tokens=tokens,
        ignore_eos=True,
        detokenize=False,
        logprobs=logprobs,
    )
    inputs = [{"prompt_token_ids": p} for p in prompts]

    def go(seed: int) -> int:
        # Each step of a training run has new prompts: nothing is cached from the round before.
        llm.reset_prefix_cache()
        done = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(one.token_ids) for output in done for one in output.outputs)

    return go


def make(kind: str, folder: str, prompts: Prompts, generations: int, tokens: int) -> Round:
    """The contender of that name."""
    work = (prompts, generations, tokens)
    if kind in ("transformers", "vllm"):
        return _ours(kind, folder, *work)
    if kind == "generate":
        return _generate(folder, *work)
    return _offline(folder, *work, logprobs=0 if kind == "offline_logprobs" else None)


def main() -> None:
    """Answer each line with seconds, tokens and peak memory."""
    # Libraries print; the answers go where nobody else writes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind, work = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    started = time.perf_counter()
    go = make(kind, work["folder"], work["prompts"], work["generations"], work["tokens"])
    print(json.dumps({"start_s": time.perf_counter() - started}), file=answers, flush=True)
    for seed, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        tokens = go(seed)
        took = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"s": took, "tokens": tokens, "peak_kib": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
