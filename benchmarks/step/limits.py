"""How fast this machine multiplies matrices: `python -m benchmarks.step.limits DTYPE`.

And how many multiplications a step needs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.step.side import Answers, Meter, Setting, told_to_go

_SHAPES: Final = ((2048, 2048, 2048), (4096, 1536, 576), (4096, 576, 1536))
"""A square, and the largest layers of a 135M model on a bin of 4096 tokens."""
_REPEATS: Final = 7
_PASSES: Final = {"rollout": 1.0, "reference": 1.0}


def step_flops(setting: Setting, tokens: Mapping[str, float], generated: float) -> float:
    """Floating-point operations of a step's linear layers, attention left out.

    An update is a forward pass, a backward pass to the activations and, with all weights trained,
    one to the weights.

    Args:
        setting: which model, and whether all its weights are trained.
        tokens: through the decoder, by phase.
        generated: completion tokens: each phase's passes through the output embedding.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(setting.folder))
    head: int = model.get_output_embeddings().weight.numel()
    layers = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) - head
    passes = {**_PASSES, "update": 2.0 if setting.lora else 3.0}
    return sum(
        2 * n * (layers * tokens.get(phase, 0) + head * generated) for phase, n in passes.items()
    )


def matmul_gflops(dtype: torch.dtype) -> float:
    """The best shape's median rate, 10^9 operations a second."""
    rates = []
    for m, k, n in _SHAPES:
        left, right = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
        seconds = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            nn.functional.linear(left, right)
            seconds.append(time.perf_counter() - began)
        rates.append(2 * m * k * n / statistics.median(seconds) / 1e9)
    return max(rates)


def main() -> None:
    """Measure once for each line of standard input."""
    answers = Answers()
    dtype = torch.bfloat16 if sys.argv[1] == "bfloat16" else torch.float32
    answers.ready()
    while told_to_go():
        meter = Meter()
        gflops = matmul_gflops(dtype)
        answers.say(**meter.read(), gflops=gflops)


if __name__ == "__main__":
    main()
