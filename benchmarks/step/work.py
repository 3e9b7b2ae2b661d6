"""What both sides train on: one model folder and mined prompts for each kind of length."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, zip_longest
from pathlib import Path
from typing import Any, Final, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from astor_rl.config import load_config
from astor_rl.engines.local.model import LoadedModel, load_model, render_prompt
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.sandbox.opening import open_pool
from astor_rl.types import Message
from benchmarks.common import ROOT, tell
from benchmarks.step.side import Setting

TASKS: Final = ("io", "code", "tests", "commits")
"""The quickstart's."""
TINY: Final = "tiny"
"""Name of a model that is made here: random weights, a token for each byte."""

Lengths = Literal["equal", "ragged"]
Messages = tuple[Message, ...]
Measure = Callable[[Sequence[Message]], int]

_PROMPT_TOKENS: Final[dict[str, tuple[int, ...]]] = {
    "equal": (150,),
    "ragged": (90, 120, 150, 180, 210, 240),
}
# A turn of the assistant has no end token of its own here: ours would stop at it as well.
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['role'] != 'assistant' %}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FREQUENT: Final = "Ċ"
"""Byte-level tokenizers' newline."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a step is.

    Attributes:
        prompts: a step's, over all tasks.
        generations: completions of each.
        tokens: the longest completion, by kind of length.
    """

    prompts: int
    generations: int
    tokens: dict[str, int]


def prepare(
    model: str, folder: Path, sizes: Sizes, *, lengths: Sequence[Lengths], packages: str
) -> dict[Lengths, Setting]:
    """Write model folders and prompts; a full-weights setting for each kind of length.

    Args:
        model: a folder or hub id, or `TINY`.
        folder: where to write.
        sizes: of a step.
        lengths: which kinds.
        packages: what to mine prompts from, as in `mine:`.
    """
    settings: dict[Lengths, Setting] = {}
    mined: list[Messages] | None = None
    for kind in lengths:
        target = folder / kind
        loaded = _written(model, target / "model", kind)

        def measure(messages: Sequence[Message], tokenizer: Any = loaded.tokenizer) -> int:
            return len(render_prompt(tokenizer, messages))

        mined = mined or _mined(packages, loaded.tokenizer)
        prompts = list(islice(_cut(mined, _PROMPT_TOKENS[kind], measure), sizes.prompts))
        if len(prompts) < sizes.prompts:
            raise RuntimeError(f"{packages}: {len(prompts)} prompts fit, {sizes.prompts} needed")
        settings[kind] = Setting(
            folder=str(target / "model"),
            rows=str(_rows(prompts, target / "rows")),
            tasks=len(TASKS),
            prompts=sizes.prompts,
            generations=sizes.generations,
            tokens=sizes.tokens[kind],
            prompt_tokens=max(map(measure, prompts)),
            lora=False,
        )
    return settings


def _written(name: str, folder: Path, kind: Lengths) -> LoadedModel:
    """The model without an end of sequence, or with one that is often met."""
    if name == TINY:
        name = str(_tiny(folder.with_name("tiny")))
    loaded = load_model(name, dtype=torch.bfloat16)
    tell(f"{kind} lengths: {loaded.source}")
    model, tokenizer = loaded.model, loaded.tokenizer
    tokenizer.chat_template = _TEMPLATE
    tokenizer.eos_token = None if kind == "equal" else _FREQUENT
    if kind == "ragged" and not (tokenizer.eos_token_id or 0) < model.config.vocab_size:
        raise RuntimeError(f"{name} has no token for a newline; run the settings of equal lengths")
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loaded


def _tiny(folder: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="!", eos_token="!", pad_token="!"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(alphabet),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
        )
    ).save_pretrained(folder)
    return folder


def _mined(packages: str, tokenizer: Any) -> list[Messages]:
    """The quickstart's training prompts, tasks in turn."""
    changes = ["max_prompt_length=100000"]
    changes += [f'tasks.{name}.source="mine:{packages}"' for name in TASKS]
    changes += [f"tasks.{name}.max_examples=100" for name in TASKS]
    config = load_config(ROOT / "configs" / "quickstart.toml", changes)
    with open_pool(config.sandbox) as sandbox:
        prepared = prepare_tasks(
            config,
            sandbox=sandbox,
            render=lambda messages: render_prompt(tokenizer, messages),
            base_dir=ROOT,
        )
    by_task = [[task.prompts[example.key][0] for example in task.train] for task in prepared]
    return [one for one in chain.from_iterable(zip_longest(*by_task)) if one is not None]


def _cut(
    prompts: Sequence[Messages], lengths: Sequence[int], measure: Measure
) -> Iterator[Messages]:
    """Prompts of exactly these many tokens, in turn, without those that can't be cut to it."""
    wanted = cycle(lengths)
    length = next(wanted)
    for messages in prompts:
        if (fitted := _cut_to(messages, length, measure)) is not None:
            yield fitted
            length = next(wanted)


def _cut_to(messages: Messages, length: int, measure: Measure) -> Messages | None:
    """Shorten the last message, if that leads to the length."""
    text = messages[-1]["content"]
    while text and measure(messages) > length:
        # A token is at least a character: so many can go without going past the length.
        text = text[: length - measure(messages)]
        messages = (*messages[:-1], {"role": messages[-1]["role"], "content": text})
    return messages if text and measure(messages) == length else None


def _rows(prompts: Sequence[Messages], folder: Path) -> Path:
    """Hand the prompts out to the tasks' files."""
    folder.mkdir(parents=True)
    for k in range(len(TASKS)):
        lines = (json.dumps({"prompt": list(one)}) + "\n" for one in prompts[k :: len(TASKS)])
        (folder / f"task{k}.jsonl").write_text("".join(lines))
    return folder
