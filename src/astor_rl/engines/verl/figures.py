"""What an update will do, measured on the driver before it: KL and loss shares by task."""

from __future__ import annotations

import torch
from torch import Tensor

from astor_rl.config import RunConfig
from astor_rl.engines.shared import loss_config
from astor_rl.engines.verl.groups import Groups
from astor_rl.policy.ledger import Ledger
from astor_rl.policy.loss import LossBatch, LossNormalizer, grpo_loss


def ledger_before(
    groups: Groups,
    config: RunConfig,
    *,
    mask: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    sampler_logprobs: Tensor | None,
) -> Ledger:
    """Loss tokens, KL and loss shares by task at the policy the step begins with.

    Args:
        groups: the step's rows.
        config: the run.
        mask: bool or int [rows, T], tokens in the loss.
        old_logprobs, ref_logprobs, sampler_logprobs: [rows, T], nats. The reference is None where
            every coefficient is 0.
    """
    kept = mask.bool()
    sample_T = torch.arange(len(kept))[:, None].expand_as(kept)[kept]

    def flat(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[kept].float()

    batch = LossBatch(
        sample_T=sample_T,
        mask_T=torch.ones_like(sample_T, dtype=torch.bool),
        advantages_M=groups.advantages,
        beta_M=groups.kl_coef,
        task_M=groups.task_id,
        ref_logprobs_T=flat(ref_logprobs),
        sampler_logprobs_T=flat(sampler_logprobs),
    )
    options = loss_config(config)
    normalizer = LossNormalizer(batch, options, tasks=len(config.tasks), valid_M=groups.valid)
    return grpo_loss(old_logprobs[kept].float(), batch, normalizer, options).ledger
