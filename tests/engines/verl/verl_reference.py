"""Half-gradients as they are defined, on one process and without verl: what a probe must equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM


def reference_gram(
    model_path: Path, kept: dict[str, Any], *, horizon: int, clip: float = 0.2
) -> Tensor:
    """The Gram of the mean policy gradients of a recorded batch's halves, float64 [R, R].

    Each row's loss is the clipped -sum(A exp(logp - old)) over its tokens; a half is their sum
    over (rollouts x horizon), on the weights of `model_path`.
    """
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).train()
    columns = kept["columns"]
    rows = []
    for number, samples in enumerate(kept["samples"]):
        model.zero_grad()
        for row in (kept["row_of"] == number).nonzero().flatten().tolist():
            ids = columns["input_ids"][row]
            length = len(columns["responses"][row])
            logits = model(input_ids=ids[None]).logits[0, -length - 1 : -1]
            logprobs = torch.log_softmax(logits.float(), -1)
            chosen = logprobs.gather(1, ids[-length:, None])[:, 0]
            ratio = (chosen - columns["old_log_probs"][row]).exp()
            mask = columns["response_mask"][row]
            gain = columns["advantages"][row]
            surrogate = torch.minimum(gain * ratio, gain * ratio.clamp(1 - clip, 1 + clip))
            loss = -(surrogate * mask).sum() / (samples * horizon)
            loss.backward()
        parts = [p.grad.reshape(-1).double() for p in model.parameters() if p.grad is not None]
        rows.append(torch.cat(parts))
    stacked = torch.stack(rows)
    return stacked @ stacked.T
