"""A finished run's model, or any model, on a run's held-out examples: what `astor eval` does.

`evaluation` is what a run does while it trains.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from astor_rl.config import RunConfig, load_config
from astor_rl.engines.local.evaluation import EVALUATION_SEED, held_out
from astor_rl.engines.local.model import load_model, render_prompt
from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.engines.local.run import FINAL
from astor_rl.engines.local.sampling import make_sampler
from astor_rl.engines.preparation import PreparedTask, prepare_tasks
from astor_rl.errors import ConfigError, DataError, ModelError
from astor_rl.evaluate.heldout import TaskResult, evaluate, summarise
from astor_rl.report.console import Console
from astor_rl.report.run_folder import holds_run, read_base_dir
from astor_rl.rollout.base import Sampler
from astor_rl.sandbox.opening import open_pool


@dataclass(frozen=True, slots=True)
class Target:
    """What to evaluate, and on what.

    Attributes:
        model: a folder or hub id.
        config: says which tasks and how to ask.
        base_dir: its relative sources start here.
    """

    model: str
    config: RunConfig
    base_dir: Path


def find_target(target: str, config: Path | None, overrides: list[str] | None) -> Target:
    """What a name means, and the run file it is evaluated by.

    Args:
        target: a run folder (its final model is meant), a model folder, or a hub id.
        config: a run file; by default the run's own config.
        overrides: as in `load_config`.

    Raises:
        ConfigError: a model without a config, or a wrong config.
        ModelError: the run has no final model yet.
    """
    is_run = holds_run(target)
    if config is None and not is_run:
        raise ConfigError(
            f"{target!r} is no run folder; say what to evaluate it on: --config run.toml"
        )
    path = config or Path(target) / "config.json"
    base_dir = config.parent if config else read_base_dir(target)
    final = Path(target) / FINAL
    if is_run and not final.is_dir():
        raise ModelError(
            f"run {target!r} has no final model yet; finish it with astor train ... --resume"
        )
    model = str(final) if is_run else target
    return Target(model, load_config(path, overrides), base_dir)


def evaluate_target(target: Target, *, split: str, console: Console) -> dict[str, TaskResult]:
    """Results by task, in the config's order. `[eval]` says how many examples and samples.

    Raises:
        AstorError: the model, data or sandbox is wrong, or there is nothing in that split.
    """
    return evaluate_splits(target, splits=[split], console=console)[split]


def evaluate_splits(
    target: Target, *, splits: Sequence[str], console: Console
) -> dict[str, dict[str, TaskResult]]:
    """As `evaluate_target`, of several splits: by split, then by task. Raises as that does."""
    config = target.config
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    console.stage("Loading", target.model)
    loaded = load_model(
        target.model,
        dtype=torch.float32,
        trust_remote_code=config.trust_remote_code,
        progress=console.note,
    )
    render = functools.partial(
        render_prompt, loaded.tokenizer, chat_template_kwargs=config.chat_template_kwargs
    )
    with open_pool(config.sandbox) as sandbox:
        console.stage("Preparing examples")
        tasks = prepare_tasks(
            config,
            sandbox=sandbox,
            render=render,
            base_dir=target.base_dir,
            note=console.note,
            progress=console.progress,
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sampler = make_sampler(config, loaded, tasks, device=device, note=console.note)
        with RewardWorker({task.name: task.task for task in tasks}) as rewards:
            return {
                split: _evaluate_split(tasks, config, sampler, rewards, split, console)
                for split in splits
            }


def _evaluate_split(
    tasks: Sequence[PreparedTask],
    config: RunConfig,
    sampler: Sampler,
    rewards: RewardWorker,
    split: str,
    console: Console,
) -> dict[str, TaskResult]:
    items = held_out(tasks, config, split=split, examples=config.eval.examples)
    if not items:
        raise DataError(f"no task has {split} examples; raise data.{split}_share or name a source")
    console.stage("Evaluating", f"{len(items)} {split} examples")
    judged = evaluate(
        sampler,
        rewards.submit,
        items,
        samples=config.eval.samples,
        temperature=config.eval.temperature,
        seed=EVALUATION_SEED,
        progress=functools.partial(console.progress, "Evaluating"),
    )
    results = summarise(list(judged))
    return {task.name: results[task.name] for task in tasks if task.name in results}
