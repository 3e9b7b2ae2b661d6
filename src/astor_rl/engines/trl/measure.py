"""What one step measures while TRL computes it: KL, loss shares, half-batch gradients.

Rollouts are of the policy that is updated (capabilities.py sees to it), so the importance ratio is
1, nothing is clipped, and a token's policy term has the value and the slope of `-A logprob`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from astor_rl.engines.shared import HalfRows
from astor_rl.engines.trl.rows import BETA, HALF, NO_HALF, TASK, Inputs, loss_mask, token_weights
from astor_rl.plan import GradientProbe, GroupOutcome, StepPlan, UpdateStats
from astor_rl.policy.ledger import Ledger
from astor_rl.policy.loss import LossType
from astor_rl.policy.sketch import Half
from astor_rl.utility.synergy import SynergyOptions


class StepMeasures:
    """Collects a step's figures, micro-batch by micro-batch.

    Args:
        plan: the step's.
        names: of all tasks, in the order of their numbers.
        groups: what became of the plan's items.
        halves: the gradient probe, on probe steps.
        device: where the step's tensors are.
    """

    def __init__(
        self,
        plan: StepPlan,
        names: Sequence[str],
        groups: Sequence[GroupOutcome],
        halves: HalfGradients | None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.plan = plan
        self.halves = halves
        self._names = names
        self._nonzero = Counter(plan.items[g.slot].task for g in groups if g.mixed)
        self._ledger = Ledger.empty(len(names), device)
        self._has_reference = False

    def observe(self, inputs: Inputs, logprobs_BT: Tensor, loss_type: LossType) -> None:
        """Take in one part of a micro-batch, before the update, with the graph still there."""
        mask_BT = loss_mask(inputs)
        weights_BT = token_weights(loss_type, mask_BT)
        current_BT = logprobs_BT.detach().float()
        kl_BT = torch.zeros_like(current_BT)
        if "ref_per_token_logps" in inputs:
            self._has_reference = True
            log_ratio_BT = torch.where(mask_BT, inputs["ref_per_token_logps"] - current_BT, 0.0)
            kl_BT = torch.expm1(log_ratio_BT) - log_ratio_BT
        policy_BT = weights_BT * inputs["advantages"][:, None]
        task_BT = inputs[TASK][:, None].expand_as(mask_BT)
        self._ledger = self._ledger + Ledger.measure(
            mask_T=mask_BT.flatten(),
            task_T=task_BT.flatten(),
            tasks=len(self._names),
            policy_T=policy_BT.flatten(),
            kl_loss_T=(weights_BT * inputs[BETA][:, None].float() * kl_BT).flatten(),
            kl_T=kl_BT.flatten(),
            clipped_T=torch.zeros_like(mask_BT).flatten(),
        )
        if self.halves:
            self.halves.observe(inputs, logprobs_BT, loss_type)

    def stats(self) -> UpdateStats:
        """What the coordinator is told; without a reference there is no KL: unknown, not 0."""
        held = self._has_reference
        return UpdateStats(
            kl=self._ledger.kl(self._names) if held else {},
            loss_tokens=self._ledger.loss_tokens(self._names),
            policy_loss_share=self._ledger.policy_loss_share(self._names),
            kl_loss_share=self._ledger.kl_loss_share(self._names) if held else {},
            nonzero_groups={name: self._nonzero[name] for name in self._names},
            probe=self.halves.gram(self._names) if self.halves else None,
        )


class HalfGradients:
    """Half-batch gradients by task: one more backward pass over the rows that carry a signal.

    Args:
        samples: judged rollouts in the groups with outcome variance, by (task number, half).
        groups: how many such groups.
        parameters: what gradients are taken of.
        options: which gradient, and how much memory whole gradients may take.
        max_completion_length: tokens; the fixed denominator of a completion.
        seed: of this probe's sketch.
    """

    def __init__(
        self,
        samples: Mapping[Half, int],
        groups: Mapping[Half, int],
        parameters: Sequence[nn.Parameter],
        options: SynergyOptions,
        *,
        max_completion_length: int,
        seed: int,
    ) -> None:
        self._samples = samples
        self._total = options.gradient == "total"
        self._length = max_completion_length
        self._rows = HalfRows(groups, parameters, options, seed=seed)

    @property
    def seconds(self) -> float:
        """Wall time spent."""
        return self._rows.seconds

    def observe(self, inputs: Inputs, logprobs_BT: Tensor, loss_type: LossType) -> None:
        """Add a part's gradient to its half; all its rows are of one task and half."""
        half = (int(inputs[TASK][0]), int(inputs[HALF][0]))
        if half[1] == NO_HALF or half not in self._rows.halves:
            return
        started = self._rows.now()
        slope_BT = self._slope(inputs, logprobs_BT, loss_type) / self._samples[half]
        gradients = torch.autograd.grad(
            logprobs_BT,
            self._rows.parameters,
            grad_outputs=slope_BT.to(logprobs_BT.dtype),
            retain_graph=True,
            materialize_grads=True,
        )
        self._rows.add(half, gradients)
        self._rows.seconds += self._rows.now() - started

    def _slope(self, inputs: Inputs, logprobs_BT: Tensor, loss_type: LossType) -> Tensor:
        """The loss's derivative by each token's log-prob, with denominators that never change."""
        mask_BT = loss_mask(inputs)
        weights_BT = token_weights(loss_type, mask_BT)
        if loss_type != "grpo":
            weights_BT = weights_BT / self._length
        slope_BT = -inputs["advantages"][:, None].expand_as(weights_BT)
        if self._total and "ref_per_token_logps" in inputs:
            log_ratio_BT = inputs["ref_per_token_logps"] - logprobs_BT.detach()
            slope_BT = slope_BT - inputs[BETA][:, None] * torch.expm1(log_ratio_BT)
        return torch.where(mask_BT, weights_BT * slope_BT, 0.0)

    def gram(self, names: Sequence[str]) -> GradientProbe | None:
        """Inner products of the halves' mean gradients; None without a task that has both."""
        if not self._rows.halves:
            return None
        started = self._rows.now()
        probe = self._rows.gram(names)
        self._rows.seconds += self._rows.now() - started
        return probe
