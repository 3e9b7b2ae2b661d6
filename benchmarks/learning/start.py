"""The laboratory's model: a small Llama, trained from nothing to answer the product's prompts."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM

from astor_rl.engines.local.model import render_prompt, save_model, turn_end_id
from astor_rl.tasks.base import Task
from benchmarks.learning.laboratory import Laboratory, make_tasks
from benchmarks.learning.programs import Program
from benchmarks.learning.rows import Maker, Row
from benchmarks.learning.vocabulary import make_tokenizer, shared_phrases

_LEARNING_RATE: Final = 2e-3
_SLIP_LEARNING_RATE: Final = 1e-3
_MICRO_BATCH: Final = 24
_NO_LABEL: Final = -100
_UNITS_PER_STEP: Final = 24
_SAMPLE: Final = 3000
_ANSWER_PHRASES: Final = (
    "```python\n",
    "\n```",
    "def test_f():\n    assert f(",
    "<answer>",
    "</answer>",
)


def texts_of(tasks: Mapping[str, Task], rows: Mapping[str, Row]) -> Iterator[tuple[str, str, str]]:
    """(task and form, prompt, answer) of each row."""
    for name, row in rows.items():
        fields = {key: value for key, value in row.items() if key != "difficulty"}
        example = tasks[name].example(fields, origin=name)
        (message,) = tasks[name].prompt(example)
        form = f"{name} {row.get('direction', '')}"
        yield form, message["content"], tasks[name].answer(example)


def make_vocabulary(laboratory: Laboratory) -> Any:
    """The tokenizer, from a sample of what the data is drawn from."""
    tasks = make_tasks()
    prompts: dict[str, list[str]] = defaultdict(list)
    texts: list[str] = []
    stream = laboratory.draws("vocabulary", laboratory.levels, rare=1.0)
    for _, rows in itertools.islice(stream, _SAMPLE):
        for form, prompt, answer in texts_of(tasks, rows):
            prompts[form].append(prompt)
            texts += [prompt, answer]
    phrases = [phrase for found in prompts.values() for phrase in shared_phrases(found)]
    return make_tokenizer([*phrases, *_ANSWER_PHRASES], texts)


def make_model(vocabulary: int, seed: int) -> Any:
    """A Llama with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt and answer, as token ids."""


class Demonstrations(IterableDataset[list[Pair]]):
    """Endless batches of answered prompts about programs that no held-out row is about.

    Args:
        laboratory: whose.
        tokenizer: its tokenizer.
        held_out: meanings of the programs to leave out.
        slips: share of wrong answers, by task.
    """

    def __init__(
        self,
        laboratory: Laboratory,
        tokenizer: Any,
        held_out: set[Program],
        slips: Mapping[str, float],
    ) -> None:
        self._laboratory = laboratory
        self._tokenizer = tokenizer
        self._held_out = held_out
        self._slips = dict(slips)

    def __iter__(self) -> Iterator[list[Pair]]:
        """Of each program one demonstration a task; the same ones in every process."""
        laboratory, tasks = self._laboratory, make_tasks()
        end = turn_end_id(self._tokenizer)
        stage = f"start {self._slips}"
        stream = laboratory.draws(stage, laboratory.start_levels, rare=laboratory.start_rare)
        rng, maker = random.Random(f"{laboratory.seed} {stage}"), laboratory.maker()
        units = (
            self._with_slips(rng, maker, program, rows)
            for program, rows in stream
            if program.meaning not in self._held_out
        )
        while True:
            yield [
                self._pair(prompt, answer, end)
                for rows in itertools.islice(units, _UNITS_PER_STEP)
                for _, prompt, answer in texts_of(tasks, rows)
            ]

    def _with_slips(
        self, rng: random.Random, maker: Maker, program: Program, rows: Mapping[str, Row]
    ) -> Mapping[str, Row]:
        if not self._slips:
            return rows
        wrong = maker.slipped(rng, program, rows)
        return {
            task: wrong[task] if rng.random() < self._slips[task] else row
            for task, row in rows.items()
        }

    def _pair(self, prompt: str, answer: str, end: int) -> Pair:
        prompt_ids = render_prompt(self._tokenizer, [{"role": "user", "content": prompt}])
        answer_ids = self._tokenizer(answer, add_special_tokens=False).input_ids
        return prompt_ids, (*answer_ids, end)


def _padded(pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Token ids and labels; what is no answer has the label that counts for nothing."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    labels = torch.full_like(ids, _NO_LABEL)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def _backward(model: Any, pairs: Sequence[Pair]) -> float:
    """Add the gradient of the mean loss over answer tokens; the loss in nats."""
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    tokens = sum(len(answer) for _, answer in pairs)
    total = 0.0
    for first in range(0, len(ordered), _MICRO_BATCH):
        ids, labels = _padded(ordered[first : first + _MICRO_BATCH])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")
        torch.autograd.backward(loss / tokens)
        total += loss.item() / tokens
    return total


def train_start(
    laboratory: Laboratory, held_out: set[Program], folder: Path, tell: Callable[[str], None]
) -> None:
    """Train the laboratory's model from nothing and save it with its tokenizer.

    Args:
        laboratory: whose.
        held_out: meanings of the programs that no demonstration is about.
        folder: where the model goes.
        tell: told the loss, in one line, now and then.
    """
    tokenizer = make_vocabulary(laboratory)
    model = make_model(len(tokenizer), laboratory.seed)
    right = Demonstrations(laboratory, tokenizer, held_out, {})
    _train(model, right, laboratory.start_steps, _LEARNING_RATE, tell)
    slipping = Demonstrations(laboratory, tokenizer, held_out, dict(laboratory.slips))
    _train(model, slipping, laboratory.slip_steps, _SLIP_LEARNING_RATE, tell)
    save_model(model, tokenizer, folder)


def _train(
    model: Any,
    demonstrations: Demonstrations,
    steps: int,
    learning_rate: float,
    tell: Callable[[str], None],
) -> None:
    batches = iter(DataLoader(demonstrations, batch_size=None, num_workers=1))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.06, cycle_momentum=False
    )
    model.train()
    for step in range(1, steps + 1):
        loss = _backward(model, next(batches))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            tell(f"supervised step {step} of {steps}: loss {loss:.3f}")
    model.eval()
