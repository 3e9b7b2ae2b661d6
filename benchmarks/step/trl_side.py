"""TRL's side: its own training loop, a round a step. `... trl_side SETTING DTYPE CACHE BATCH`.

Imports nothing of astor-rl, so that TRL may be in an environment of its own.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.step.reward import checksum
from benchmarks.step.side import Answers, Counts, Meter, Setting, told_to_go


class Rounds(TrainerCallback):  # type: ignore[misc]
    """Holds the loop before each step until the round begins, and answers after it."""

    def __init__(self, answers: Answers, counts: Counts) -> None:
        self._answers = answers
        self._counts = counts
        self._meter: Meter | None = None
        self.generated = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the word."""
        if self._meter is None:
            self._answers.ready()
        if not told_to_go():
            sys.exit()
        self.generated = 0
        self._counts.reset()
        self._meter = Meter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Answer."""
        assert self._meter is not None
        measured = self._meter.read()
        seconds = {name: s for name, s in self._counts.seconds.items() if name != "rest"}
        seconds["rest"] = measured["s"] - sum(seconds.values())
        self._answers.say(
            **measured, phases=seconds, tokens=dict(self._counts.tokens), generated=self.generated
        )


class Measured(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with its parts as phases; nothing of what it does is changed."""

    counts: Counts
    rounds: Rounds

    def _generate(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        with self.counts.phase("rollout"):
            result = super()._generate(prompts, *args, **kwargs)
        self.rounds.generated += sum(map(len, result[1]))
        return result

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.counts.phase("reward"):
            return super()._calculate_rewards(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        with self.counts.phase("update" if torch.is_grad_enabled() else "reference"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Forward and backward; sampling and scoring, inside it, are phases of their own."""
        with self.counts.phase("update"):
            return super().training_step(*args, **kwargs)


def trainer_of(
    setting: Setting, *, dtype: str, cache: str, batch: int, output: str, answers: Answers
) -> GRPOTrainer:
    """One batch is sampled, `batch` completions go through the update at once; no recomputation."""
    tokenizer = AutoTokenizer.from_pretrained(setting.folder, padding_side="left")
    if tokenizer.eos_token is None:
        # TRL must have one: a new token is beyond the model's vocabulary, so it is never sampled.
        tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    counts = Counts()
    rounds = Rounds(answers, counts)
    # `mixed` is TRL's default: float32 weights, autocast to bfloat16.
    config = GRPOConfig(
        output_dir=output,
        use_cpu=True,
        bf16=dtype == "mixed",
        model_init_kwargs={"dtype": "bfloat16" if dtype == "bfloat16" else "float32"},
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=setting.prompts * setting.generations // batch,
        gradient_checkpointing=False,
        num_generations=setting.generations,
        max_completion_length=setting.tokens,
        temperature=1.0,
        cache_implementation=None if cache == "dynamic" else cache,
        beta=setting.beta,
        num_iterations=1,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="constant",
        max_steps=1_000_000,
        logging_steps=1_000_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    # As the quickstart's adapter.
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Measured(
        model=setting.folder,
        reward_funcs=checksum,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(setting.prompt_rows()),
        peft_config=lora if setting.lora else None,
        callbacks=[rounds],
    )
    trainer.counts, trainer.rounds = counts, rounds
    return trainer


def main() -> None:
    """Take a step for each line of standard input."""
    answers = Answers()
    setting, (dtype, cache, batch) = Setting.load(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="astor-bench-trl-") as output:
        trainer = trainer_of(
            setting, dtype=dtype, cache=cache, batch=int(batch), output=output, answers=answers
        )
        trainer.train()


if __name__ == "__main__":
    main()
