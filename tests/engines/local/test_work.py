"""A step's work, counted in tokens: what no change may make more, on any machine.

Every token that goes through a model goes through its embedding, so that is where they are
counted; whose pass it was is known from who asked for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from astor_rl.config import RunConfig, load_config
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.model import load_model, render_prompt, stop_token_ids
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.engines.local.trainer import LocalTrainer
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.rollout.base import Request
from astor_rl.rollout.transformers import TransformersSampler
from astor_rl.sandbox.opening import open_pool
from astor_rl.types import Rollout

Write = Callable[..., Path]

ALONE = World(0, 1, torch.device("cpu"))
LIMIT = 24
"""Longest completion: one token in 33 ends one, so that most lengths differ."""


class Recorder(TransformersSampler):
    """Keeps what it sampled."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups: dict[int, list[Rollout]] = {}

    def sample(self, requests: Iterable[Request]) -> Iterator[tuple[int, Rollout]]:
        self.groups = {}
        for number, rollout in super().sample(requests):
            self.groups.setdefault(number, []).append(rollout)
            yield number, rollout


class Work:
    """Tokens through any embedding of the process, and how many were padding, by pass."""

    def __init__(self, policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self._name = "rollout"
        for method, name in (
            ("reference_logprobs", "reference"),
            ("logprobs", "update"),
            ("logprobs_and_entropies", "update"),
        ):
            monkeypatch.setattr(policy, method, self._named(getattr(policy, method), name))

    def _named(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def named(*args: Any) -> Any:
            before, self._name = self._name, name
            try:
                return call(*args)
            finally:
                self._name = before

        return named

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.tokens.clear()
        self.passes.clear()
        hook = register_module_forward_hook(self._embedded)
        try:
            yield
        finally:
            hook.remove()

    def _embedded(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Embedding):
            self.tokens[self._name] += args[0].numel()
            self.passes[self._name] += 1


@contextmanager
def training(
    config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[LocalTrainer, Recorder, Work]]:
    """The local engine's trainer on one thread, with its sampler and a count of its work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = load_model(config.model, dtype=torch.float32)
    with open_pool(config.sandbox) as sandbox:
        tasks = prepare_tasks(
            config,
            sandbox=sandbox,
            render=lambda messages: render_prompt(loaded.tokenizer, messages),
            base_dir=folder,
        )
    sampler = Recorder(
        loaded.model,
        decode=loaded.tokenizer.decode,
        stop_token_ids=stop_token_ids(loaded.tokenizer, loaded.model),
        dtype=torch.float32,
        max_rows=config.rollout.max_rows,
    )
    assert sampler.mode == "grouped"
    torch.manual_seed(0)
    policy = Policy(
        loaded,
        lora=config.lora,
        device=ALONE.device,
        dtype=torch.float32,
        fused_kernels=config.fused_kernels,
    )
    work = Work(policy, monkeypatch)
    with RewardWorker({task.name: task.task for task in tasks}) as rewards:
        yield (
            LocalTrainer(config, tasks, policy, sampler=sampler, rewards=rewards, world=ALONE),
            sampler,
            work,
        )
    torch.set_num_threads(threads)


def least(groups: Iterable[Sequence[Rollout]]) -> int:
    """Each prompt once, each completion once but for its last token, which predicts nothing."""
    return sum(
        len(group[0].prompt_ids) + sum(len(rollout.completion_ids) - 1 for rollout in group)
        for group in groups
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rollout": {"max_rows": 8}},
        {"lora": {"enabled": False}, "fused_kernels": "off"},
        {"gradient_checkpointing": True, "num_iterations": 2},
    ],
    ids=["default", "refilled", "all weights, unfused", "two iterations"],
)
def test_a_step_computes_each_token_once_in_each_pass(
    tiny_run: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    path = tiny_run(
        max_completion_length=LIMIT,
        micro_batch_tokens=200,
        eval={"examples": 0},
        rollout=changes.get("rollout", {}),
        **{name: value for name, value in changes.items() if name != "rollout"},
    )
    config = load_config(path)
    with training(config, tmp_path, monkeypatch) as (trainer, sampler, work):
        probed = []
        for _ in range(2):
            with work.counted():
                record = trainer.step()
            probed.append(record.plan.probe)
            groups = list(sampler.groups.values())
            lengths = [len(rollout.completion_ids) for group in groups for rollout in group]
            assert len(set(lengths)) > 3  # else nothing is said of rollouts that end early
            # More than one bin, and no group so long that it had to be split.
            assert work.passes["reference"] > 1
            expected = least(groups)
            # Old log-probs are computed apart only where a batch is trained on again.
            updates = config.num_iterations + (config.num_iterations > 1)
            assert work.tokens == {
                "rollout": expected,
                "reference": expected,
                "update": expected * updates,
            }
            assert record.metrics["tokens/generated"] == sum(lengths)
        assert probed == [True, False]


def test_without_a_beta_there_is_no_reference_pass(
    tiny_run: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_run(beta=0.0, eval={"examples": 0}))
    with training(config, tmp_path, monkeypatch) as (trainer, sampler, work):
        with work.counted():
            trainer.step()
        expected = least(sampler.groups.values())
        assert work.tokens == {"rollout": expected, "update": expected}


def test_groups_over_the_budget_repeat_their_prompt_and_nothing_else(
    tiny_run: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_run(micro_batch_tokens=1, eval={"examples": 0}))
    with training(config, tmp_path, monkeypatch) as (trainer, sampler, work):
        with work.counted():
            trainer.step()
        groups = list(sampler.groups.values())
        alone = least([rollout] for group in groups for rollout in group)
        assert work.tokens == {"rollout": least(groups), "reference": alone, "update": alone}
