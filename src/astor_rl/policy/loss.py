"""The clipped GRPO loss with a KL coefficient for each sample (docs/method.md, Module 2).

A step's tokens are flat; a token's loss is `weight x (policy + beta x KL)`. All four of TRL's
normalisations are a choice of `weight`, and the weights come from counts of the *whole* step
(`LossNormalizer`), so any split into micro-batches or ranks sums to the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from astor_rl.errors import ConfigError
from astor_rl.policy.ledger import Ledger

KLEstimator = Literal["k3", "k3_ratio", "k2"]
"""`k3`: Schulman's; `k3_ratio`: times the importance ratio (TRL's `use_bias_correction_kl`);
`k2`: half the squared log-ratio. The last two have the gradient of the true KL on policy."""

LossType = Literal["grpo", "dr_grpo", "bnpo", "dapo"]
"""TRL's names. `bnpo` differs from `dapo` only in taking its token count from the micro-batch;
here every count is the step's, so the two are equal."""

TaskNorm = Literal["none", "task"]
"""`task`: each task has its own denominators, and the loss is the mean over tasks present."""

ImportanceLevel = Literal["token", "sequence"]
"""Whether the sampler's mismatch is weighed by token or by the product over a completion."""


@dataclass(frozen=True, slots=True)
class LossConfig:
    """How tokens become a loss.

    Attributes:
        loss_type: see `LossType`.
        epsilon, epsilon_high: the ratio is clipped to [1 - epsilon, 1 + epsilon_high];
            `epsilon_high` None means `epsilon`.
        kl_estimator: see `KLEstimator`.
        task_norm: see `TaskNorm`.
        max_completion_length: tokens; the constant in `dr_grpo`'s denominator.
        importance_cap: C in min(pi_old / pi_sampler, C), > 0.
        importance_level: see `ImportanceLevel`.

    Raises:
        ConfigError: an unknown name or a number out of range.
    """

    loss_type: LossType = "dapo"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    kl_estimator: KLEstimator = "k3"
    task_norm: TaskNorm = "none"
    max_completion_length: int = 256
    importance_cap: float = 2.0
    importance_level: ImportanceLevel = "token"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("loss_type", LossType),
            ("kl_estimator", KLEstimator),
            ("task_norm", TaskNorm),
            ("importance_level", ImportanceLevel),
        ):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise ConfigError(f"{name} is {value!r}; it must be one of {get_args(allowed)}")
        if not 0 <= self.epsilon < 1:
            raise ConfigError(f"epsilon is {self.epsilon!r}; it must be in [0, 1)")
        if self.epsilon_high is not None and not self.epsilon_high >= 0:
            raise ConfigError(f"epsilon_high is {self.epsilon_high!r}; it must be >= 0")
        if self.max_completion_length < 1:
            raise ConfigError(
                f"max_completion_length is {self.max_completion_length!r}; it must be >= 1 token"
            )
        if not self.importance_cap > 0:
            raise ConfigError(f"importance_cap is {self.importance_cap!r}; it must be > 0")


@dataclass(frozen=True, slots=True)
class LossBatch:
    """What the loss reads besides the policy's log-probs: a step, or a bin of it.

    Attributes:
        sample_T: int64, each token's completion, an index into the `_M` tensors.
        mask_T: bool, the tokens that enter the loss (`loss_mask`).
        advantages_M: float.
        beta_M: float >= 0, each completion's KL coefficient.
        task_M: int64, each completion's task, 0 .. K-1.
        old_logprobs_T: the trainer's log-probs when the step began, nats; None on the first and
            only pass over a step, when they are the current ones.
        ref_logprobs_T: the reference's; None only where every beta is 0.
        sampler_logprobs_T: the sampler's; None where sampler and trainer are one. NaN means not
            known and counts as equal.
    """

    sample_T: Tensor
    mask_T: Tensor
    advantages_M: Tensor
    beta_M: Tensor
    task_M: Tensor
    old_logprobs_T: Tensor | None = None
    ref_logprobs_T: Tensor | None = None
    sampler_logprobs_T: Tensor | None = None

    def select(self, token_T: Tensor) -> LossBatch:
        """The part at the given places of the flat layout; the `_M` tensors stay the step's."""

        def at(values_T: Tensor | None) -> Tensor | None:
            return None if values_T is None else values_T[token_T]

        return LossBatch(
            self.sample_T[token_T],
            self.mask_T[token_T],
            self.advantages_M,
            self.beta_M,
            self.task_M,
            at(self.old_logprobs_T),
            at(self.ref_logprobs_T),
            at(self.sampler_logprobs_T),
        )


def loss_mask(
    policy_T: Tensor,
    sample_T: Tensor,
    *,
    valid_M: Tensor | None = None,
    truncated_M: Tensor | None = None,
    mask_truncated_completions: bool = False,
) -> Tensor:
    """Which tokens enter the loss, bool [T].

    Args:
        policy_T: 1 for tokens the policy chose, 0 for the environment's (`Rollout.loss_mask`).
        sample_T: each token's completion.
        valid_M: False where the verifier failed.
        truncated_M: True where the length limit cut the completion.
        mask_truncated_completions: leave truncated completions out, as TRL does. They still count
            as samples in the denominators of `grpo` and `dr_grpo`, again as in TRL.
    """
    mask_T = policy_T.bool()
    if valid_M is not None:
        mask_T = mask_T & valid_M.bool()[sample_T]
    if mask_truncated_completions and truncated_M is not None:
        mask_T = mask_T & ~truncated_M.bool()[sample_T]
    return mask_T


class LossNormalizer:
    """The denominators of one step, from the counts of all its groups.

    Build one on each rank from the rank's whole share of the step, `all_reduce` it once, then use
    it for every micro-batch. The ranks' gradients are then to be *summed*, not averaged.

    Args:
        batch: all tokens of the step on this rank.
        config: which normalisation.
        tasks: K.
        valid_M: False for rollouts that left their group: they don't count as samples.
    """

    def __init__(
        self, batch: LossBatch, config: LossConfig, *, tasks: int, valid_M: Tensor | None = None
    ) -> None:
        self._config = config
        zeros_M = torch.zeros(len(batch.task_M), dtype=torch.float64, device=batch.mask_T.device)
        self._length_M = zeros_M.index_add(0, batch.sample_T, batch.mask_T.double())
        counted_M = zeros_M + 1 if valid_M is None else valid_M.to(zeros_M)
        zeros_K = zeros_M.new_zeros(tasks)
        self.counts_2K = torch.stack(
            [
                zeros_K.index_add(0, batch.task_M, counted_M),
                zeros_K.index_add(0, batch.task_M, self._length_M),
            ]
        )
        """Float64: samples by task, loss tokens by task."""

    def all_reduce(self, reduce: Callable[[Tensor], object]) -> None:
        """Sum the counts over ranks in place; `reduce` is e.g. `torch.distributed.all_reduce`."""
        reduce(self.counts_2K)

    def weights(self, batch: LossBatch) -> Tensor:
        """Each token's weight, float32 [T], 0 where masked; the loss is the weighted sum.

        Source: TRL 1.16's `_compute_loss` with its micro-batch taken to be the whole step. With
        `task_norm = "task"`, each task's own counts and a mean over the tasks present.
        """
        weight_T = self._scales()[batch.task_M[batch.sample_T]]
        if self._config.loss_type == "grpo":
            weight_T = weight_T / self._length_M.clamp(min=1)[batch.sample_T]
        return torch.where(batch.mask_T, weight_T, 0.0).float()

    def probe_scale(self, task: int, samples: int) -> float:
        """What turns a half-batch's share of the step's gradient into a mean with fixed counts.

        The step's denominators change from step to step with the batch's make-up; a gradient
        probe needs a mean over its own `samples` rollouts (docs/method.md, Synergy). Multiply the
        half's gradient, computed under `weights`, by this. Token counts become
        `max_completion_length` for each sample, except in `grpo`, whose token mean is kept.

        Raises:
            ConfigError: `samples` is below 1.
        """
        if samples < 1:
            raise ConfigError(f"samples of a half-batch is {samples}; it must be >= 1")
        per_sample = 1 if self._config.loss_type == "grpo" else self._config.max_completion_length
        return 1.0 / (float(self._scales()[task]) * samples * per_sample)

    def _scales(self) -> Tensor:
        """Each task's constant, one over its denominator, [K]."""
        samples_K, tokens_K = self.counts_2K
        present = 1.0
        if self._config.task_norm == "none":
            samples_K, tokens_K = (row.sum().expand_as(row) for row in self.counts_2K)
        else:
            present = float((samples_K > 0).sum().clamp(min=1))
        if self._config.loss_type == "grpo":
            denominator_K = samples_K
        elif self._config.loss_type == "dr_grpo":
            denominator_K = samples_K * self._config.max_completion_length
        else:
            denominator_K = tokens_K
        return torch.reciprocal(denominator_K.clamp(min=1) * present)


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of a bin: minimise `policy + kl`.

    Attributes:
        policy: scalar with a graph.
        kl: scalar, beta included; without a graph where every beta is 0. Apart from `policy` so
            that a probe step can back-propagate that alone (`policy.backward(retain_graph=True)`).
        ledger: what was measured, without a graph; add up a step's.
    """

    policy: Tensor
    kl: Tensor
    ledger: Ledger


def grpo_loss(
    logprobs_T: Tensor,
    batch: LossBatch,
    normalizer: LossNormalizer,
    config: LossConfig,
    *,
    entropy_T: Tensor | None = None,
) -> LossTerms:
    """The loss of a bin of whole completions (docs/method.md, Module 2; TRL 1.16 for equal betas).

    Policy term: -min(r A, clip(r) A) with r = pi / pi_old. KL term: beta of the completion times
    the estimator. Both are multiplied by the stop-gradient min(pi_old / pi_sampler, C) and by the
    token's weight, so on policy the ratio of their coefficients is the completion's beta.

    Args:
        logprobs_T: the policy's log-probs of the bin's tokens, nats, with a graph.
        batch: the same tokens' constants.
        normalizer: of the whole step.
        config: the same as the normaliser's.
        entropy_T: the policy's entropy at each token, nats, for the ledger only.

    Raises:
        ConfigError: a beta is positive and `ref_logprobs_T` is None.
    """
    mask_T, sample_T = batch.mask_T, batch.sample_T
    logprobs_T = logprobs_T.float()
    current_T = logprobs_T.detach()
    old_T = _known(batch.old_logprobs_T, current_T, mask_T)
    weight_T = normalizer.weights(batch) * _sampler_weight(old_T, batch, config)
    advantage_T = batch.advantages_M.to(logprobs_T)[sample_T]

    # A masked token's log-probs may be anything; a zero keeps inf x 0 out of the backward pass.
    ratio_T = torch.where(mask_T, logprobs_T - old_T, 0.0).exp()
    low = 1 - config.epsilon
    high = 1 + (config.epsilon if config.epsilon_high is None else config.epsilon_high)
    clipped_T = ratio_T.clamp(low, high)
    policy_T = -weight_T * torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T)

    beta_T = batch.beta_M.to(logprobs_T)[sample_T]
    kl_T, penalty_T = _kl(logprobs_T, ratio_T, beta_T, batch, config)
    kl_loss_T = weight_T * beta_T * penalty_T
    is_clipped_T = ((ratio_T < low) & (advantage_T < 0)) | ((ratio_T > high) & (advantage_T > 0))
    ledger = Ledger.measure(
        mask_T=mask_T,
        task_T=batch.task_M[sample_T],
        tasks=normalizer.counts_2K.shape[1],
        policy_T=policy_T.detach(),
        kl_loss_T=kl_loss_T.detach(),
        kl_T=kl_T.detach(),
        clipped_T=is_clipped_T,
        entropy_T=entropy_T,
    )
    return LossTerms(policy_T.sum(), kl_loss_T.sum(), ledger)


def _known(values_T: Tensor | None, current_T: Tensor, mask_T: Tensor) -> Tensor:
    """Log-probs in the current ones' type; the current ones where there are none."""
    if values_T is None:
        return current_T
    return torch.where(mask_T, values_T.to(current_T), current_T)


def _sampler_weight(old_T: Tensor, batch: LossBatch, config: LossConfig) -> Tensor:
    """min(pi_old / pi_sampler, C) for each token; 1 where the sampler's log-prob is unknown."""
    if batch.sampler_logprobs_T is None:
        return torch.ones_like(old_T)
    sampler_T = batch.sampler_logprobs_T.to(old_T)
    known_T = batch.mask_T & ~sampler_T.isnan()
    log_ratio_T = torch.where(known_T, old_T - sampler_T, 0.0)
    if config.importance_level == "sequence":
        sums_M = old_T.new_zeros(len(batch.task_M)).index_add(0, batch.sample_T, log_ratio_T)
        log_ratio_T = sums_M[batch.sample_T]
    return log_ratio_T.exp().clamp(max=config.importance_cap)


def _kl(
    logprobs_T: Tensor, ratio_T: Tensor, beta_T: Tensor, batch: LossBatch, config: LossConfig
) -> tuple[Tensor, Tensor]:
    """The measured KL (always k3) and the penalty that is differentiated, each [T]."""
    if batch.ref_logprobs_T is None:
        if bool((beta_T[batch.mask_T] > 0).any()):
            raise ConfigError("ref_logprobs_T is missing; a positive beta needs the reference's")
        zeros_T = torch.zeros_like(beta_T)
        return zeros_T, zeros_T
    # Without a graph where nothing is penalised, so that the engine can skip a backward pass.
    penalised = bool((beta_T > 0).any())
    policy_T = logprobs_T if penalised else logprobs_T.detach()
    log_ratio_T = torch.where(batch.mask_T, batch.ref_logprobs_T.to(policy_T) - policy_T, 0.0)
    k3_T = torch.expm1(log_ratio_T) - log_ratio_T
    if config.kl_estimator == "k2":
        return k3_T, 0.5 * log_ratio_T.square()
    if config.kl_estimator == "k3_ratio":
        return k3_T, k3_T * (ratio_T if penalised else ratio_T.detach())
    return k3_T, k3_T
