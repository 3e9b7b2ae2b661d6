"""A run file as verl's configuration: overrides for Hydra, composed and checked by verl itself."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astor_rl.config import RunConfig
from astor_rl.engines.verl.capabilities import check_run, check_verl
from astor_rl.engines.verl.guard import require_verl
from astor_rl.errors import ConfigError

MODULE = "astor_rl.engines.verl"
"""`python -m` this to train with the arguments of `arguments`."""

RUN_KEY = "astor.run"
"""Key of verl's configuration that holds the exported run file's path."""

AGGREGATION = {
    "dapo": "token-mean",
    "bnpo": "token-mean",
    "grpo": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
"""`loss_type` -> verl's `loss_agg_mode`."""
_SHORT = {"bfloat16": "bf16", "float32": "fp32"}
"""`dtype` as verl's FSDP engine spells it."""
_NO_LIMIT = 1e6
"""Stands for no upper limit where verl wants a number."""


def overrides(config: RunConfig, folder: Path, *, resume: bool = True) -> dict[str, Any]:
    """verl's keys and the values a run file gives them; `[verl.options]` win.

    Args:
        config: the run.
        folder: where `export.write` puts the data, in the run folder.
        resume: go on with the newest checkpoint, if there is one.

    Raises:
        CapabilityError: the run asks for what this engine can't do.
    """
    check_run(config)
    keys = {
        **_data(config, folder),
        **_model(config),
        **_loss(config),
        **_optimiser(config),
        **_rollout(config, folder),
        **_trainer(config, folder.parent, resume=resume),
        f"+{RUN_KEY}": str(folder / "run.json"),
        "+astor.folder": str(folder.parent),
        "reward.num_workers": config.verl.reward_workers,
        "reward.custom_reward_function.path": f"pkg://{MODULE}.reward",
        "reward.custom_reward_function.name": "compute_score",
        "+reward.custom_reward_function.reward_kwargs.run": str(folder / "run.json"),
    }
    for key, value in _dotted(config.verl.options):
        bare = key.lstrip("+")
        keys = {name: old for name, old in keys.items() if name.lstrip("+") != bare}
        keys[key] = value
    return keys


def _data(config: RunConfig, folder: Path) -> dict[str, Any]:
    return {
        "data.train_files": [str(folder / "train.parquet")],
        "data.val_files": [str(folder / "validation.parquet")],
        "data.train_batch_size": config.prompts_per_step,
        "data.max_prompt_length": config.max_prompt_length,
        "data.max_response_length": config.max_completion_length,
        "data.dataloader_num_workers": 0,
        "data.shuffle": False,
        "data.seed": config.seed,
        "data.trust_remote_code": config.trust_remote_code,
        **{
            f"+data.apply_chat_template_kwargs.{name}": value
            for name, value in config.chat_template_kwargs.items()
        },
    }


def _model(config: RunConfig) -> dict[str, Any]:
    lora = config.lora
    chosen: dict[str, Any] = {
        "actor_rollout_ref.model.path": config.model,
        "actor_rollout_ref.model.trust_remote_code": config.trust_remote_code,
        "actor_rollout_ref.model.enable_gradient_checkpointing": config.gradient_checkpointing,
    }
    if lora.enabled:
        if not float(lora.lora_alpha).is_integer():
            raise ConfigError(
                f"lora.lora_alpha is {lora.lora_alpha:g}; verl takes whole numbers only"
            )
        chosen |= {
            "actor_rollout_ref.model.lora_rank": lora.r,
            "actor_rollout_ref.model.lora_alpha": int(lora.lora_alpha),
            "actor_rollout_ref.model.target_modules": lora.target_modules,
            # The sampler can't invent the base weights that an adapter is added to.
            "actor_rollout_ref.rollout.load_format": "safetensors",
        }
    return chosen


def _loss(config: RunConfig) -> dict[str, Any]:
    actor = "actor_rollout_ref.actor"
    betas = [config.beta if task.beta is None else task.beta for task in config.tasks]
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    scale = config.max_completion_length if config.loss_type == "dr_grpo" else None
    return {
        "algorithm.adv_estimator": "grpo",
        "critic.enable": False,
        f"{actor}.loss_agg_mode": AGGREGATION[config.loss_type],
        f"{actor}.loss_scale_factor": scale,
        f"{actor}.clip_ratio": config.epsilon,
        f"{actor}.clip_ratio_low": config.epsilon,
        f"{actor}.clip_ratio_high": high,
        # verl clips once more where the advantage is negative; the other engines don't.
        f"{actor}.clip_ratio_c": _NO_LIMIT,
        # The stock term keeps the reference model loaded and adds nothing; see `loss.py`.
        f"{actor}.use_kl_loss": any(betas),
        f"{actor}.kl_loss_coef": 0.0,
        f"{actor}.kl_loss_type": {"k3": "low_var_kl"}.get(config.kl_estimator, "mse"),
        "algorithm.rollout_correction.rollout_is": config.importance_level,
        "algorithm.rollout_correction.rollout_is_threshold": _NO_LIMIT
        if config.importance_cap == "off"
        else config.importance_cap,
    }


def _optimiser(config: RunConfig) -> dict[str, Any]:
    actor, reference = "actor_rollout_ref.actor", "actor_rollout_ref.ref"
    return {
        f"{actor}.strategy": "fsdp2",
        f"{actor}.fsdp_config.strategy": "fsdp2",
        f"{reference}.fsdp_config.strategy": "fsdp2",
        **_precision(f"{actor}.fsdp_config", config),
        **_precision(f"{reference}.fsdp_config", config),
        f"{actor}.ppo_mini_batch_size": config.prompts_per_step,
        f"{actor}.ppo_epochs": config.num_iterations,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": config.micro_batch_tokens,
        f"{actor}.grad_clip": config.max_grad_norm,
        f"{actor}.optim.clip_grad": config.max_grad_norm,
        f"{actor}.optim.lr": config.learning_rate,
        f"{actor}.optim.lr_scheduler_type": config.lr_scheduler_type,
        f"{actor}.optim.lr_warmup_steps": config.lr_warmup_steps,
        f"{actor}.optim.weight_decay": config.weight_decay,
        f"{actor}.optim.betas": [config.adam_beta1, config.adam_beta2],
        f"+{actor}.optim.override_optimizer_config.eps": config.adam_epsilon,
    }


def _precision(fsdp: str, config: RunConfig) -> dict[str, Any]:
    """`dtype` alone is read by nobody: FSDP computes in what `mixed_precision` says, else bf16."""
    return {
        f"{fsdp}.dtype": config.dtype,
        f"+{fsdp}.mixed_precision.param_dtype": _SHORT[config.dtype],
        f"+{fsdp}.mixed_precision.reduce_dtype": "fp32",
    }


def _rollout(config: RunConfig, folder: Path) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    return {
        f"{rollout}.name": config.verl.rollout,
        # The largest group: with it and ppo_mini_batch_size, verl fills every step up to one
        # update, whatever the tasks' group sizes.
        f"{rollout}.n": max(t.num_generations or config.num_generations for t in config.tasks),
        f"{rollout}.seed": config.seed,
        f"{rollout}.temperature": config.temperature,
        f"{rollout}.top_p": 1.0,
        f"{rollout}.top_k": -1,
        f"{rollout}.dtype": config.dtype,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.tensor_model_parallel_size": config.verl.tensor_model_parallel_size,
        f"{rollout}.gpu_memory_utilization": config.verl.gpu_memory_utilization,
        f"{rollout}.agent.agent_loop_config_path": str(folder / "agent.yaml"),
        f"{rollout}.val_kwargs.n": config.eval.samples,
        f"{rollout}.val_kwargs.temperature": config.eval.temperature,
        f"{rollout}.val_kwargs.do_sample": config.eval.temperature > 0,
    }


def _trainer(config: RunConfig, run: Path, *, resume: bool) -> dict[str, Any]:
    return {
        "trainer.nnodes": config.verl.nnodes,
        "trainer.n_gpus_per_node": config.verl.n_gpus_per_node,
        "trainer.total_training_steps": config.max_steps,
        # An epoch is at least one step: steps alone end the run.
        "trainer.total_epochs": config.max_steps + 1,
        "trainer.save_freq": config.save_steps,
        "trainer.test_freq": (config.eval.examples and config.eval.every) or -1,
        "trainer.val_before_train": bool(config.eval.examples),
        "trainer.default_local_dir": str(run / "checkpoints"),
        # verl deletes before it writes: with one, a kill in between would leave none.
        "trainer.max_actor_ckpt_to_keep": max(2, config.save_total_limit),
        "trainer.logger": ["console", *config.report_to],
        "trainer.project_name": "astor",
        "trainer.experiment_name": run.name,
        "trainer.resume_mode": "auto" if resume else "disable",
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "sync",
    }


def _dotted(options: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested tables as dotted keys; a leading `+` of any part moves to the front."""
    found: list[tuple[str, Any]] = []
    for name, value in options.items():
        plus = "+" * (name.startswith("+") or prefix.startswith("+"))
        key = plus + f"{prefix}{name}".replace("+", "")
        if isinstance(value, Mapping) and value:
            found += _dotted(value, f"{key}.")
        else:
            found.append((key, value))
    return found


def arguments(keys: Mapping[str, Any]) -> list[str]:
    """The overrides as Hydra reads them on a command line, before any shell quoting."""
    return [f"{key}={spell(value)}" for key, value in keys.items()]


_PLAIN = re.compile(r"[A-Za-z_/.][\w/.:@%-]*")
_WORDS = {"null", "true", "false", "nan", "inf", "yes", "no", "on", "off"}


def spell(value: Any) -> str:
    """One value in Hydra's grammar."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping):
        inner = ",".join(f"{spell(str(name))}:{spell(item)}" for name, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(spell(item) for item in value)}]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # Hydra's rule: backslashes count before a quote
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def compose(given: Sequence[str]) -> Any:
    """verl's whole configuration from Hydra overrides, as `arguments` makes them.

    Returns:
        An OmegaConf `DictConfig`; see `check`.

    Raises:
        DependencyError: verl is missing or of another version.
        ConfigError: a key isn't verl's, or its value can't be read.
    """
    require_verl()
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            return hydra_compose("ppo_trainer", overrides=list(given))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"verl's configuration: {_first_line(error)}") from None


def check(config: Any, run: RunConfig) -> None:
    """Our checks of a composed configuration, then verl's own.

    Args:
        config: from `compose`.
        run: the run it belongs to.

    Raises:
        CapabilityError: this engine can't run it.
        ConfigError: verl refuses it.
    """
    check_verl(config, run)
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        # verl tells on standard output that all is well.
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(
                config=config,
                use_reference_policy=need_reference_policy(config),
                use_critic=need_critic(config),
            )
    except (AssertionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"verl refuses its configuration: {_first_line(error)}") from None
    except Exception as error:
        if not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise ConfigError(f"verl refuses its configuration: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
