"""What verl, driven by this engine, can't honour: said at the start, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from astor_rl.config import RunConfig
from astor_rl.errors import CapabilityError
from astor_rl.schedule.baselines.registry import FILTERING

_FILLER_TOKENS = 128
"""Length of verl's synthetic rows (`SYNTHETIC_PADDING_SEQ_LEN`)."""


def check_run(config: RunConfig) -> None:
    """Refuse a run file that asks for what this engine doesn't do.

    Raises:
        CapabilityError: names the key, its value, and what to set instead.
    """
    for complaint in _complaints(config):
        raise CapabilityError(complaint)


def _complaints(config: RunConfig) -> Iterator[str]:
    if config.warmup.steps:
        yield (
            f"warmup.steps is {config.warmup.steps}; the verl engine begins with RL: set it to 0 "
            "and name a warmed-up model (a local run's base/ folder)"
        )
    if config.schedule.method in FILTERING:
        yield (
            f"schedule.method is {config.schedule.method!r}, which replaces groups within a step; "
            "the verl engine doesn't: choose another, or engine = 'local'"
        )
    if config.task_norm != "none":
        yield f"task_norm is {config.task_norm!r}; verl has one normaliser: set it to 'none'"
    if config.kl_estimator == "k3_ratio":
        yield "kl_estimator is 'k3_ratio', which verl has not; set 'k3' or 'k2'"
    if config.lr_scheduler_type == "linear":
        yield "lr_scheduler_type is 'linear', which verl has not; set 'constant' or 'cosine'"
    if config.mask_truncated_completions:
        yield "mask_truncated_completions is true, which verl doesn't do; set it to false"
    if config.resume_from_checkpoint:
        yield (
            f"resume_from_checkpoint is {config.resume_from_checkpoint!r}; verl resumes from its "
            "own checkpoints: set verl.options.trainer.resume_from_path and resume_mode instead"
        )
    yield from _about_lengths(config)
    for task in config.tasks:
        if task.options.get("turns", 1) != 1:
            yield (
                f"tasks[{task.name}].options.turns is {task.options['turns']!r}; the verl engine "
                "trains on one turn"
            )


def _about_lengths(config: RunConfig) -> Iterator[str]:
    if config.max_generated_tokens is not None:
        yield (
            f"max_generated_tokens is {config.max_generated_tokens}; the verl engine counts steps: "
            "leave it out and set max_steps"
        )
    longest = max(t.max_completion_length or 0 for t in config.tasks)
    if longest > config.max_completion_length:
        yield (
            f"a task's max_completion_length is {longest}; verl's limit is the run's, "
            f"{config.max_completion_length}: raise max_completion_length"
        )
    needed = max(config.max_prompt_length + config.max_completion_length, _FILLER_TOKENS)
    if config.micro_batch_tokens < needed:
        yield (
            f"micro_batch_tokens is {config.micro_batch_tokens}; verl needs room for the longest "
            f"sequence and for the rows it fills batches up with, {needed} tokens"
        )


_REQUIRED: dict[str, tuple[Any, str]] = {
    "data.dataloader_num_workers": (0, "a data loader that reads ahead draws prompts too early"),
    "trainer.use_v1": (True, "the old trainer has no hooks for this engine"),
    "trainer.v1.trainer_mode": ("sync", "asynchronous trainers train on prompts planned earlier"),
    "trainer.critic_warmup": (0, "steps without an update have nothing to report"),
    "trainer.v1.sampler.sync_refill_failed_groups": (False, "refills bypass the plan"),
    "trainer.v1.sampler.custom_sampler.path": (None, "the plan decides what is in a batch"),
    "algorithm.adv_estimator": ("grpo", "advantages are group-relative"),
    "algorithm.use_kl_in_reward": (False, "the KL term has coefficients of its own"),
    "algorithm.filter_groups.enable": (False, "refills bypass the plan"),
    "algorithm.rollout_correction.bypass_mode": (False, "the ratio is against the trainer's"),
    "algorithm.rollout_correction.rollout_rs": (None, "rejected tokens would leave the plan"),
    "actor_rollout_ref.hybrid_engine": (True, "asynchronous trainers alone can split it"),
    "actor_rollout_ref.actor.strategy": ("fsdp2", "the gradient probe reads FSDP2 shards"),
    "actor_rollout_ref.actor.kl_loss_coef": (0.0, "each row brings its own coefficient"),
    "actor_rollout_ref.actor.shuffle": (False, "a step is one update of the whole batch"),
    "distillation.enabled": (False, "its loss would replace ours"),
    "reward.reward_model.enable": (False, "rewards are the tasks' verdicts"),
    "data.gen_batch_size": (None, "a step is one plan"),
    "data.train_max_samples": (-1, "the plan may choose any prompt"),
    "actor_rollout_ref.model.mtp.enable": (False, "its loss isn't in the probe"),
}
"""Key of verl's configuration -> the value this engine needs, and why."""


def check_verl(config: Any, run: RunConfig) -> None:
    """Refuse a composed verl configuration that this engine can't run, however it came about.

    Args:
        config: verl's, an OmegaConf `DictConfig`.
        run: the run it belongs to.

    Raises:
        CapabilityError: names the key, its value, and what it must be.
    """
    from omegaconf import OmegaConf

    for key, (wanted, why) in {**_REQUIRED, **_of_the_run(run)}.items():
        found = OmegaConf.select(config, key)
        if found != wanted and not (found is None and wanted is False):
            raise CapabilityError(
                f"verl's {key} is {_shown(found)}; with this engine it must be {_shown(wanted)}: "
                f"{why}"
            )


def _of_the_run(run: RunConfig) -> dict[str, tuple[Any, str]]:
    """What the run file says and this engine counts on; to change it, change it there."""
    groups = [task.num_generations or run.num_generations for task in run.tasks]
    betas = [run.beta if task.beta is None else task.beta for task in run.tasks]
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return {
        "data.train_batch_size": (run.prompts_per_step, "it is the run's prompts_per_step"),
        "data.max_response_length": (run.max_completion_length, "max_completion_length says it"),
        f"{actor}.ppo_mini_batch_size": (
            run.prompts_per_step,
            "a step is one update of the whole batch",
        ),
        f"{actor}.use_kl_loss": (any(betas), "the reference model is there where a beta is"),
        f"{rollout}.n": (max(groups), "it is the largest num_generations"),
        f"{rollout}.temperature": (run.temperature, "the run's temperature says it"),
    }


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
