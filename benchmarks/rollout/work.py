"""What everybody samples: built-in prompts, equally long completions, one model."""

from __future__ import annotations

import calendar
import fnmatch
import heapq
import inspect
import random
import shlex
import statistics
import string
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from astor_rl.engines.local import smollm_wheel
from astor_rl.engines.local.model import load_model, render_prompt
from astor_rl.errors import ModelError

_SOURCES: Final = (
    calendar.leapdays,
    calendar.monthrange,
    fnmatch.filter,
    fnmatch.translate,
    heapq.merge,
    heapq.nlargest,
    shlex.join,
    shlex.quote,
    shlex.split,
    statistics.fmean,
    statistics.geometric_mean,
    statistics.multimode,
    statistics.pvariance,
    string.capwords,
    textwrap.dedent,
    textwrap.shorten,
)
_QUESTION: Final = "Write one unit test for this function.\n\n```python\n{}\n```"
_LENGTHS: Final = (90, 120, 150, 180, 210, 240)
"""Tokens of the prompts, in turn, where their text is long enough (the quickstart allows 256)."""
_END: Final = 8
"""Tokens at a prompt's end that are kept: the template's."""
_VOCABULARY: Final = 49_152
_SHAPE: Final[Mapping[str, Any]] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
}


def prepare(name: str, folder: Path, count: int) -> tuple[str, list[Sequence[int]]]:
    """Write the model's folder for everybody; say what it is, and what the prompts are.

    Where SmolLM2-135M can't be had it is a model of its shape with random weights and prompts: the
    work is the same.
    """
    try:
        loaded = load_model(name, dtype=torch.bfloat16)
    except ModelError as error:
        if name != smollm_wheel.NAME:
            raise
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE), dtype=torch.bfloat16)
        model.save_pretrained(folder)
        rng = random.Random(0)
        drawn: list[Sequence[int]] = [
            [rng.randrange(100, _VOCABULARY) for _ in range(_LENGTHS[i % len(_LENGTHS)])]
            for i in range(count)
        ]
        return f"random weights in the shape of {name} ({error})", drawn
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return f"{name}, {loaded.source.partition(', cached')[0]}", _prompts(loaded.tokenizer, count)


def _prompts(tokenizer: Any, count: int) -> list[Sequence[int]]:
    """Questions about functions of the standard library, cut to ragged lengths."""
    found: list[Sequence[int]] = []
    for i in range(count):
        text = _QUESTION.format(inspect.getsource(_SOURCES[i % len(_SOURCES)]))
        ids = render_prompt(tokenizer, [{"role": "user", "content": text}])
        limit = _LENGTHS[i % len(_LENGTHS)]
        found.append(ids if len(ids) <= limit else (*ids[: limit - _END], *ids[-_END:]))
    return found
