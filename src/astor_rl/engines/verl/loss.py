"""verl's PPO loss with a KL coefficient for each row (docs/method.md, Module 2).

The policy term is verl's own `ppo_loss`; its KL term is switched off and ours is added under the
same aggregation and the same weights, so that per token the ratio of the two coefficients is the
row's `kl_coef`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from astor_rl.errors import CapabilityError

KL_COEF = "kl_coef"
"""Column, float [rows]: each row's KL coefficient."""
TASK_ID = "task_id"
"""Column, int64 [rows]: each row's task by number."""
SAMPLES = "astor_samples"
"""Batch-wide: judged rollouts of the step, over all ranks."""


def astor_loss(
    model_output: dict[str, Any],
    data: TensorDict,
    dp_group: Any = None,
    *,
    config: Any,
    tasks: Sequence[str] = (),
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of a micro-batch, in the form of verl's loss functions.

    Args:
        model_output: `log_probs`, jagged over prompt and response.
        data: verl's batch, with the columns `kl_coef` and (for metrics by task) `task_id`.
        dp_group: as verl passes it.
        config: verl's `ActorConfig`, with `use_kl_loss` on (it keeps the reference model) and
            `kl_loss_coef` 0 (the coefficients are the rows').
        tasks: names by number; every micro-batch reports the KL loss of all of them, because verl
            refuses metrics that only some ranks have.

    Returns:
        The loss to be differentiated (scaled for averaging over ranks) and its metrics.

    Raises:
        CapabilityError: `kl_coef` is missing, or `ref_log_prob` is where a coefficient is positive:
            training would go on without its KL term, unnoticed.
    """
    if KL_COEF not in data.keys():  # noqa: SIM118 - a TensorDict isn't iterable over its keys
        raise CapabilityError(
            f"the batch has no column {KL_COEF!r}; the KL term would be lost: it must be put into "
            "the transfer queue before the update, and the queue's answer be passed on"
        )
    samples = tu.get_non_tensor_data(data, SAMPLES, None)
    if samples is not None:
        # verl counts a fixed batch, synthetic rows and rollouts without a verdict included.
        data = data.copy()
        tu.assign_non_tensor(data, global_batch_size=samples)
    loss, metrics = ppo_loss(config, model_output, data, dp_group)
    kl_by_row, mask = _kl_by_token(config, model_output, data)
    total, by_task = _kl_loss(config, kl_by_row, mask, data, tasks)
    metrics["astor/kl_loss"] = Metric(AggregationType.SUM, total.detach())
    for name, value in by_task.items():
        metrics[f"task/{name}/kl_loss"] = Metric(AggregationType.SUM, value)
    return loss + total, metrics


def _kl_by_token(
    config: Any, model_output: dict[str, Any], data: TensorDict
) -> tuple[Tensor, Tensor]:
    """The penalty of each response token, weighted like the policy's, and the loss mask."""
    logprobs = no_padding_2_padding(model_output["log_probs"], data)
    columns = [name for name in ("ref_log_prob", "rollout_is_weights") if name in data.keys()]  # noqa: SIM118
    padded = data.select("response_mask", *columns).to_padded_tensor()
    mask = padded["response_mask"].to(bool)
    if "ref_log_prob" not in columns:
        if bool((data[KL_COEF] > 0).any()):
            raise CapabilityError(
                "the batch has no column 'ref_log_prob' and a positive KL coefficient; the "
                "reference must be switched on (actor_rollout_ref.actor.use_kl_loss=true)"
            )
        return torch.zeros_like(logprobs), mask
    # A masked token's log-probs may be anything; equal ones keep inf x 0 out of the backward pass.
    reference = torch.where(mask, padded["ref_log_prob"], logprobs.detach())
    penalty = kl_penalty(logprobs, reference, config.kl_loss_type)
    if "rollout_is_weights" in columns:
        penalty = penalty * padded["rollout_is_weights"]
    return penalty, mask


def _kl_loss(
    config: Any, penalty: Tensor, mask: Tensor, data: TensorDict, tasks: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The whole KL loss, and each task's part of it without a graph."""
    weighted = penalty * data[KL_COEF].to(penalty).view(-1, 1)

    def aggregate(values: Tensor) -> Tensor:
        total: Tensor = agg_loss(
            loss_mat=values,
            loss_mask=mask,
            loss_agg_mode=config.loss_agg_mode,
            **config.global_batch_info,
        )
        return total

    still = weighted.detach()
    by_task = {
        name: aggregate(torch.where((data[TASK_ID] == number).view(-1, 1), still, 0.0))
        for number, name in enumerate(tasks)
    }
    return aggregate(weighted), by_task
