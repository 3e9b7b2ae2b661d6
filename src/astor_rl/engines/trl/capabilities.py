"""What can't be honoured inside TRL is refused at the start in one line, never changed silently."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any, get_args

from astor_rl.engines.trl.data import TaskData
from astor_rl.errors import CapabilityError, ConfigError
from astor_rl.policy.loss import LossType
from astor_rl.utility.synergy import SynergyOptions

SUPPORTED = "1.16"
"""The minor release of TRL whose methods are wrapped; they change between releases."""


def check_version() -> None:
    """Refuse a TRL that wasn't tested.

    Raises:
        CapabilityError: it is of another minor release.
    """
    found = metadata.version("trl")
    if not found.startswith(f"{SUPPORTED}."):
        raise CapabilityError(
            f"trl {found} is installed; AstorGRPOTrainer wraps methods of {SUPPORTED}: "
            "pip install 'astor-rl[trl]'"
        )


def check_args(args: Any, synergy: SynergyOptions) -> None:
    """Refuse a `GRPOConfig` with which a step would not be what the coordinator takes it for.

    Raises:
        CapabilityError: names the option, its value, and what would be right.
    """
    checkpointing = args.gradient_checkpointing_kwargs or {}
    reentrant = args.gradient_checkpointing and checkpointing.get("use_reentrant", False)
    rules: list[tuple[str, Any, bool, str]] = [
        ("world_size", args.world_size, args.world_size == 1, "1: several processes are verl's"),
        (
            "use_vllm",
            args.use_vllm,
            not args.use_vllm,
            "False: rollouts by TRL's vLLM were never run",
        ),
        (
            "num_iterations",
            args.num_iterations,
            args.num_iterations == 1,
            "1: a plan is one optimiser step",
        ),
        (
            "steps_per_generation",
            args.steps_per_generation,
            args.steps_per_generation == args.gradient_accumulation_steps,
            f"gradient_accumulation_steps ({args.gradient_accumulation_steps}): otherwise "
            "rollouts are older than the policy they update",
        ),
        (
            "loss_type",
            args.loss_type,
            args.loss_type in get_args(LossType),
            f"one of {', '.join(get_args(LossType))}",
        ),
        (
            "scale_rewards",
            args.scale_rewards,
            args.scale_rewards != "batch",
            "'group' or 'none': TRL's batch mixes the tasks' rewards",
        ),
        (
            "multi_objective_aggregation",
            args.multi_objective_aggregation,
            args.multi_objective_aggregation == "sum_then_normalize",
            "'sum_then_normalize': the other mixes the tasks' rewards",
        ),
        (
            "reward_weights",
            args.reward_weights,
            args.reward_weights is None,
            "None: tasks judge, and format_weight weighs their format rewards",
        ),
        (
            "entropy_coef",
            args.entropy_coef,
            args.entropy_coef == 0.0,
            "0: the bonus is a mean over rows that are split by task here",
        ),
        (
            "use_adaptive_entropy",
            args.use_adaptive_entropy,
            not args.use_adaptive_entropy,
            "False: the bonus is a mean over rows that are split by task here",
        ),
        (
            "top_entropy_quantile",
            args.top_entropy_quantile,
            args.top_entropy_quantile == 1.0,
            "1.0: the quantile is of rows that are split by task here",
        ),
        (
            "gradient_checkpointing_kwargs.use_reentrant",
            True,
            not (reentrant and synergy.enabled),
            "False, or synergy.enabled = False: reentrant checkpoints can't be probed",
        ),
    ]
    for name, value, honoured, right in rules:
        if not honoured:
            raise CapabilityError(f"{name} is {value!r}; with AstorGRPOTrainer it must be {right}")


def check_tasks(tasks: Sequence[TaskData], args: Any) -> None:
    """Refuse tasks that want what TRL has only one of.

    Raises:
        CapabilityError: group sizes or length limits differ.
        ConfigError: there is no task, or one has no example.
    """
    if not tasks:
        raise ConfigError("tasks is empty; give at least one TaskData")
    for task in tasks:
        if not task.examples:
            raise ConfigError(f"task {task.name!r} has no examples; give at least one")
        for option in ("num_generations", "max_completion_length"):
            wanted, only = getattr(task, option), getattr(args, option)
            if wanted not in (None, only):
                raise CapabilityError(
                    f"task {task.name!r} has {option} {wanted}; TRL has one for all tasks, "
                    f"and args.{option} is {only}"
                )


def check_model(*, aux_loss: bool) -> None:
    """Refuse a model whose loss has a part that tasks don't share row by row.

    Raises:
        CapabilityError: a mixture of experts trains with its auxiliary loss.
    """
    if aux_loss:
        raise CapabilityError(
            "the model adds a router auxiliary loss, a mean over rows that are split by task "
            "here; set router_aux_loss_coef = 0.0"
        )
