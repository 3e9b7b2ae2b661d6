"""A trainer on a tiny model and two dense tasks: the share of a completion that is one letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOConfig

from astor_rl.coordinator import CoordinatorOptions
from astor_rl.engines.trl import AstorGRPOTrainer, TaskData
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.tasks.from_reward import RewardTask, from_reward
from astor_rl.utility.synergy import SynergyOptions

torch.set_num_threads(1)

LETTERS = {"first": "a", "second": "z"}
OPTIONS = CoordinatorOptions(
    schedule=ScheduleOptions(min_groups=2, warmup_steps=2), synergy=SynergyOptions(every=2)
)


class Guest:
    """What tests make tasks of."""

    options = OPTIONS

    @staticmethod
    def share(completions: list[str], letter: list[str]) -> list[float]:
        """The share of letters in a wide range around the wanted one: dense, seldom all equal."""
        return [
            sum(abs(ord(c) - ord(wanted)) < 9 for c in text) / max(len(text), 1)
            for text, wanted in zip(completions, letter, strict=True)
        ]

    def task(self) -> RewardTask:
        """Dense outcomes, and a format that wants short completions."""

        def dense(prompts: Any, completions: Any, letter: Any, **_: Any) -> list[float]:
            return self.share(completions, letter)

        def short(prompts: Any, completions: list[str], **_: Any) -> list[float]:
            return [float(len(text) <= 4) for text in completions]

        return from_reward(dense, format_function=short)

    def data(self, name: str, task: Any = None, **options: Any) -> TaskData:
        """Eighteen prompts of task `first` or `second`."""
        rows = [
            {"prompt": f"{word} {other}", "letter": LETTERS[name]}
            for word in ("say", "give", "write", "print", "type", "put")
            for other in ("one", "two", "more")
        ]
        return TaskData.from_rows(name, task or self.task(), rows, **options)


@pytest.fixture
def guest() -> Guest:
    return Guest()


def grpo_config(folder: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 12,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 0.01,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "beta": 0.01,
        "use_bias_correction_kl": False,
        "gradient_checkpointing": False,
        "seed": 7,
    }
    return GRPOConfig(**{**settings, **changes})


@pytest.fixture
def trainer(guest: Guest, tiny_model: Path, tmp_path: Path) -> Callable[..., AstorGRPOTrainer]:
    """Make a trainer; keyword arguments change the config, `tasks` and `given` the rest."""

    def make(
        tasks: list[TaskData] | None = None, given: dict[str, Any] | None = None, **changes: Any
    ) -> AstorGRPOTrainer:
        return AstorGRPOTrainer(
            str(tiny_model),
            tasks or [guest.data(name) for name in LETTERS],
            grpo_config(tmp_path / "out", **changes),
            **{"options": OPTIONS, **(given or {})},
        )

    return make
