"""One policy update from a step's groups, and what it measured.

Groups are packed into bins; each bin is one forward pass. On a probe step the bins keep a task's
two halves apart and the policy term is back-propagated on its own, so that the probe's
half-gradients cost one more backward pass over those bins and no forward.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from astor_rl.config import RunConfig
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.probe import NO_SIGNAL, HalfGradients
from astor_rl.engines.local.rates import lr_factor
from astor_rl.engines.shared import loss_config
from astor_rl.errors import ModelError, StateError
from astor_rl.plan import GroupOutcome, PlanItem, UpdateStats
from astor_rl.policy.advantages import GroupAdvantages, group_advantages
from astor_rl.policy.ledger import Ledger
from astor_rl.policy.loss import LossBatch, LossNormalizer, grpo_loss, loss_mask
from astor_rl.policy.packing import Packed, TokenGroup, flat_samples, pack_groups
from astor_rl.policy.sketch import probe_seed
from astor_rl.types import Invalid, Rollout, Score


@dataclass(frozen=True, slots=True)
class Group:
    """A plan item's rollouts with their verdicts, aligned."""

    item: PlanItem
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Score | Invalid, ...]

    def outcome(self) -> GroupOutcome:
        """What the coordinator is told."""
        return GroupOutcome(
            slot=self.item.slot,
            outcomes=tuple(v.outcome for v in self.verdicts if isinstance(v, Score)),
            invalid=sum(isinstance(v, Invalid) for v in self.verdicts),
            tokens=sum(len(rollout.completion_ids) for rollout in self.rollouts),
        )

    @property
    def mixed(self) -> bool:
        """Whether two judged rollouts differ in outcome."""
        return self.outcome().mixed


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an update reports: `stats` to the coordinator, `metrics` to the logs."""

    stats: UpdateStats
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Batch:
    """A rank's whole share of a step, laid out flat, with its bins."""

    loss: LossBatch
    valid_M: Tensor
    bins: Sequence[Packed]
    advantages: GroupAdvantages


class Updater:
    """Turns groups into optimiser steps.

    Args:
        policy: the model and its optimised parameters.
        config: the run.
        task_names: in the coordinator's order; they number the loss's tasks.
        world: gradients and counts are summed over its ranks.
    """

    def __init__(
        self, policy: Policy, config: RunConfig, *, task_names: Sequence[str], world: World
    ) -> None:
        self._policy = policy
        self._config = config
        self._names = list(task_names)
        self._world = world
        self._loss_config = loss_config(config)
        self._optimizer = torch.optim.AdamW(
            policy.trainable,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def update(self, groups: Sequence[Group], *, probe: bool, step: int) -> UpdateResult:
        """Take `num_iterations` optimiser steps on one batch.

        Args:
            groups: this rank's groups; a rank may have none.
            probe: measure half-batch policy gradients in the first iteration.
            step: 0-based RL step; sets the learning rate and the probe's sketch.

        Raises:
            ModelError: the gradient is not finite; the weights are left as they were.
        """
        batch = self._layout(groups, probe=probe)
        normalizer = LossNormalizer(
            batch.loss, self._loss_config, tasks=len(self._names), valid_M=batch.valid_M
        )
        normalizer.all_reduce(lambda tensor: self._world.sum_([tensor]))
        halves = self._halves(groups, batch.advantages, step) if probe else None
        held = any(self._world.gather(bool((batch.loss.beta_M > 0).any())))
        loss = self._with_fixed_logprobs(batch, reference=held)
        gap = _Gap()
        ledger = self._accumulate(batch.bins, loss, normalizer, halves, gap)
        norm = self._optimizer_step(step, iteration=0)
        passes = [ledger]
        for iteration in range(1, self._config.num_iterations):
            passes.append(self._accumulate(batch.bins, loss, normalizer))
            self._optimizer_step(step, iteration)
        ledger = ledger.clipped_over(passes)
        ledger.all_reduce(lambda tensor: self._world.sum_([tensor]))
        gram = halves.gram(normalizer, self._names) if halves else None
        metrics = {
            **ledger.metrics(self._names),
            **gap.metrics(self._world),
            "grad_norm": norm,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "update/bins": len(batch.bins),
        }
        if halves:
            metrics["time/probe"] = halves.seconds
        if not held:  # without a reference pass there is no KL: unknown, not 0
            metrics = {name: v for name, v in metrics.items() if not name.endswith("/kl")}
        stats = UpdateStats(
            kl=ledger.kl(self._names) if held else {},
            loss_tokens=ledger.loss_tokens(self._names),
            policy_loss_share=ledger.policy_loss_share(self._names),
            kl_loss_share=ledger.kl_loss_share(self._names),
            nonzero_groups=self._nonzero_groups(groups, batch.advantages),
            probe=gram,
        )
        return UpdateResult(stats, metrics)

    def _layout(self, groups: Sequence[Group], *, probe: bool) -> _Batch:
        """Flatten the groups in their order and pack them."""
        tasks = [self._names.index(group.item.task) for group in groups]
        advantages = self._advantages(groups, tasks)
        varies = advantages.outcome_varies_N.tolist()
        token_groups = [
            TokenGroup(
                group.rollouts[0].prompt_ids,
                [rollout.completion_ids for rollout in group.rollouts],
                key=(task, group.item.half if mixed else NO_SIGNAL),
            )
            for group, task, mixed in zip(groups, tasks, varies, strict=True)
        ]
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        sizes = torch.tensor([len(group.rollouts) for group in groups], dtype=torch.long)
        valid_M = torch.tensor(
            [isinstance(v, Score) for group in groups for v in group.verdicts], dtype=torch.bool
        )
        sample_T = flat_samples(token_groups)
        mask_T = loss_mask(
            torch.tensor([m for r in rollouts for m in r.loss_mask], dtype=torch.bool),
            sample_T,
            valid_M=valid_M,
            truncated_M=torch.tensor([r.truncated for r in rollouts], dtype=torch.bool),
            mask_truncated_completions=self._config.mask_truncated_completions,
        )
        sampler_T = torch.tensor([p for r in rollouts for p in r.logprobs], dtype=torch.float32)
        betas = torch.tensor([group.item.beta for group in groups], dtype=torch.float32)
        loss = LossBatch(
            sample_T=sample_T,
            mask_T=mask_T,
            advantages_M=advantages.advantages_NG[
                _inside(sizes, advantages.advantages_NG.shape[1])
            ],
            beta_M=torch.repeat_interleave(betas, sizes),
            task_M=torch.repeat_interleave(torch.tensor(tasks, dtype=torch.long), sizes),
            sampler_logprobs_T=sampler_T,
        )
        budget = self._config.micro_batch_tokens
        bins = pack_groups(token_groups, budget, separate_keys=probe)
        return _Batch(loss, valid_M, bins, advantages)

    def _halves(
        self, groups: Sequence[Group], advantages: GroupAdvantages, step: int
    ) -> HalfGradients:
        """Count the groups with a signal by (task, half)."""
        samples: Counter[tuple[int, int]] = Counter()
        members: Counter[tuple[int, int]] = Counter()
        for group, varies in zip(groups, advantages.outcome_varies_N.tolist(), strict=True):
            if varies:
                half = (self._names.index(group.item.task), group.item.half)
                samples[half] += len(group.outcome().outcomes)
                members[half] += 1
        counts = {half: (samples[half], members[half]) for half in members}
        return HalfGradients(
            counts,
            self._policy.trainable,
            self._config.synergy,
            world=self._world,
            seed=probe_seed(self._config.seed, step),
        )

    def _nonzero_groups(
        self, groups: Sequence[Group], advantages: GroupAdvantages
    ) -> dict[str, int]:
        """Groups with an advantage, by task, over all ranks."""
        mine = Counter(
            group.item.task
            for group, nonzero in zip(groups, advantages.nonzero_N.tolist(), strict=True)
            if nonzero
        )
        everyone = self._world.gather(mine)
        return {name: sum(part[name] for part in everyone) for name in self._names}

    def _advantages(self, groups: Sequence[Group], tasks: Sequence[int]) -> GroupAdvantages:
        """Advantages on a rectangle of groups; a group's missing places count as invalid.

        With `scale_rewards = "batch"` the deviation is over all ranks' groups.
        """
        everyone = self._world.gather([(t, g.verdicts) for t, g in zip(tasks, groups, strict=True)])
        flat = [pair for part in everyone for pair in part]
        width = max((len(verdicts) for _, verdicts in flat), default=0)
        outcomes_NG = torch.zeros(len(flat), width, dtype=torch.float64)
        formats_NG = torch.zeros_like(outcomes_NG)
        valid_NG = torch.zeros(len(flat), width, dtype=torch.bool)
        for n, (_, verdicts) in enumerate(flat):
            for g, verdict in enumerate(verdicts):
                if isinstance(verdict, Score):
                    outcomes_NG[n, g], formats_NG[n, g] = verdict.outcome, verdict.format
                    valid_NG[n, g] = True
        whole = group_advantages(
            outcomes_NG,
            formats_NG,
            valid_NG,
            task_ids=[task for task, _ in flat],
            kind=self._config.advantage,
            scale_rewards=self._config.scale_rewards,
            format_weight=self._config.format_weight,
            std_floor=self._config.std_floor,
        )
        before = sum(len(part) for part in everyone[: self._world.rank])
        mine = slice(before, before + len(groups))
        return GroupAdvantages(
            whole.advantages_NG[mine], whole.nonzero_N[mine], whole.outcome_varies_N[mine]
        )

    def _with_fixed_logprobs(self, batch: _Batch, *, reference: bool) -> LossBatch:
        """Add the log-probs that stay fixed during the update: the reference's, and the old ones.

        With one iteration the old log-probs are the current ones and cost no pass.
        """
        loss = batch.loss
        reference_T = old_T = None
        if reference:
            reference_T = torch.empty(len(loss.sample_T))
            for bin_ in batch.bins:
                reference_T[bin_.token_T] = self._policy.reference_logprobs(bin_).cpu()
        if self._config.num_iterations > 1:
            old_T = torch.empty(len(loss.sample_T))
            with torch.no_grad():
                for bin_ in batch.bins:
                    old_T[bin_.token_T] = self._policy.logprobs(bin_).cpu()
        return replace(loss, old_logprobs_T=old_T, ref_logprobs_T=reference_T)

    def _accumulate(
        self,
        bins: Sequence[Packed],
        loss: LossBatch,
        normalizer: LossNormalizer,
        halves: HalfGradients | None = None,
        gap: _Gap | None = None,
    ) -> Ledger:
        """Forward and backward over all bins; gradients add up in the parameters."""
        ledger = Ledger.empty(len(self._names))
        for packed in bins:
            logprobs_T, entropy_T = self._policy.logprobs_and_entropies(packed)
            logprobs_T, entropy_T = logprobs_T.cpu(), entropy_T.cpu()
            part = loss.select(packed.token_T)
            terms = grpo_loss(logprobs_T, part, normalizer, self._loss_config, entropy_T=entropy_T)
            ledger = ledger + terms.ledger
            if gap is not None:
                gap.add(logprobs_T.detach(), part)
            if halves is not None and halves.wants(packed):
                halves.backward(terms, packed)
            else:
                torch.autograd.backward(terms.policy + terms.kl)
        return ledger

    def _optimizer_step(self, step: int, iteration: int) -> float:
        """Sum gradients over ranks, clip, step. Returns the gradient norm before clipping."""
        parameters = self._policy.trainable
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._world.sum_(p.grad for p in parameters if p.grad is not None)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm))
        if not norm < float("inf"):
            self._optimizer.zero_grad()
            raise ModelError(
                f"RL step {step}: the gradient norm is {norm}; lower learning_rate "
                f"({self._config.learning_rate:g}) or resume from the last checkpoint"
            )
        iterations = self._config.num_iterations
        factor = lr_factor(
            step * iterations + iteration,
            kind=self._config.lr_scheduler_type,
            lr_warmup_steps=self._config.lr_warmup_steps,
            total=self._config.max_steps * iterations,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Trainable weights and the optimiser's moments: the live tensors, good until a step."""
        return {
            "weights": {name: p.detach() for name, p in self._policy.named_trainable()},
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both. Raises `StateError` when names or shapes differ."""
        self._policy.load_trainable(state["weights"])
        try:
            self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        except (ValueError, KeyError) as error:
            raise StateError(f"the saved optimiser doesn't fit this model: {error}") from error


class _Gap:
    """How far the sampler's log-probs are from the trainer's."""

    def __init__(self) -> None:
        self._sum = self._count = self._largest = 0.0

    def add(self, logprobs_T: Tensor, part: LossBatch) -> None:
        if part.sampler_logprobs_T is None:
            return
        gap_T = (logprobs_T - part.sampler_logprobs_T).abs()[part.mask_T]
        self._sum += float(gap_T.sum())
        self._count += len(gap_T)
        self._largest = max(self._largest, float(gap_T.max()) if len(gap_T) else 0.0)

    def metrics(self, world: World) -> dict[str, float]:
        """Mean and largest absolute difference over the step's loss tokens, nats."""
        parts = world.gather((self._sum, self._count, self._largest))
        total, count = (sum(part[i] for part in parts) for i in (0, 1))
        return {
            "sampler_gap/mean": total / max(count, 1),
            "sampler_gap/max": max(part[2] for part in parts),
        }


def _inside(sizes: Tensor, width: int) -> Tensor:
    """Where a rectangle of groups holds rollouts, [N, width] bool.

    The width is the step's: a rank's own groups may all be narrower, or there may be none.
    """
    return torch.arange(width)[None, :] < sizes[:, None]
