"""What verl can't honour is said at the start, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.verl.hydra import arguments, check, compose, overrides
from astor_rl.errors import CapabilityError, ConfigError

TASK = {"name": "io", "task": "io_prediction", "source": "jsonl:x"}


def run(**changes: Any) -> RunConfig:
    raw = {"model": "m", "engine": "verl", "lora": {"enabled": False}, "tasks": [TASK]}
    return parse_config({**raw, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"warmup": {"steps": 5}}, r"warmup\.steps is 5"),
        ({"schedule": {"method": "dapo"}}, "replaces groups within a step"),
        ({"task_norm": "task"}, "task_norm is 'task'"),
        ({"kl_estimator": "k3_ratio"}, "kl_estimator is 'k3_ratio'"),
        ({"lr_scheduler_type": "linear"}, "lr_scheduler_type is 'linear'"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint is 'x'"),
        ({"micro_batch_tokens": 700}, "needs room for the longest sequence .* 768 tokens"),
        (
            {"micro_batch_tokens": 99, "max_prompt_length": 40, "max_completion_length": 6},
            "rows it fills batches up with, 128 tokens",
        ),
        ({"tasks": [{**TASK, "max_completion_length": 300}]}, "is 300; verl's limit"),
        ({"tasks": [{**TASK, "options": {"turns": 2}}]}, r"options\.turns is 2"),
    ],
)
def test_a_run_that_asks_for_more_is_refused_in_one_line(changes: dict[str, Any], says: str):
    with pytest.raises(CapabilityError, match=says) as caught:
        overrides(run(**changes), Path("verl"))
    assert "\n" not in str(caught.value)


def test_the_rank_of_an_adapter_is_whole():
    with pytest.raises(ConfigError, match=r"lora_alpha is 1\.5"):
        overrides(run(lora={"lora_alpha": 1.5}), Path("verl"))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("data.dataloader_num_workers", 2, "dataloader_num_workers is 2; .* must be 0: a data"),
        ("trainer.v1.trainer_mode", "separate_async", 'is "separate_async"; .* must be "sync"'),
        ("trainer.v1.trainer_mode", "colocate_async", "planned earlier"),
        ("trainer.use_v1", False, "is false; .* must be true"),
        ("algorithm.adv_estimator", "rloo", 'must be "grpo"'),
        ("algorithm.filter_groups.enable", True, "refills bypass the plan"),
        ("actor_rollout_ref.actor.strategy", "fsdp", 'must be "fsdp2"'),
        ("actor_rollout_ref.actor.kl_loss_coef", 0.1, "is 0.1; .* must be 0.0"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 8, "is 8; .* must be 16"),
        ("data.train_batch_size", 32, "must be 16"),
        ("data.max_response_length", 999, "must be 256: max_completion_length says it"),
        ("actor_rollout_ref.rollout.n", 4, "must be 8: it is the largest"),
        ("actor_rollout_ref.rollout.temperature", 0.5, "must be 1.0"),
        ("actor_rollout_ref.actor.use_kl_loss", False, "must be true"),
    ],
)
def test_verls_own_keys_are_refused_too(option: str, value: Any, says: str):
    pytest.importorskip("verl", reason="needs verl: make test-verl")
    config = run(verl={"options": {option: value}})
    composed = compose(arguments(overrides(config, Path("verl"))))
    with pytest.raises(CapabilityError, match=says) as caught:
        check(composed, config)
    assert "\n" not in str(caught.value)
