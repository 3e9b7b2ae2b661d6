"""KL-regularised bandits: where the loss leads, against the closed forms of docs/method.md."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from astor_rl.policy.advantages import group_advantages
from astor_rl.policy.loss import LossBatch, LossConfig, LossNormalizer, grpo_loss

REWARDS = torch.tensor([0.0, 0.3, 1.0])
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TOLERANCE = 2e-4
BETAS = torch.tensor([0.3, 0.6, 1.5])


def expected_gradient(theta_KA: Tensor, size: int, estimator: Any) -> Tensor:
    """The exact expectation of the loss's gradient over every possible group, all tasks at once.

    Each task is a bandit with its own logits and beta; a completion is one action. The loss says
    how each sample's log-prob is pushed; every group's push is weighed by its probability.
    """
    logprobs_KA = theta_KA.log_softmax(dim=1)
    groups = torch.tensor(list(product(range(3), repeat=size)))
    action_NG = groups.repeat(len(BETAS), 1)
    task_N = torch.arange(len(BETAS)).repeat_interleave(len(groups))
    logprobs_NG = logprobs_KA[task_N[:, None], action_NG]
    advantages = group_advantages(
        REWARDS[action_NG],
        torch.zeros(action_NG.shape),
        torch.ones(action_NG.shape, dtype=torch.bool),
        task_ids=task_N,
        scale_rewards="none",
    ).advantages_NG
    samples = action_NG.numel()
    batch = LossBatch(
        sample_T=torch.arange(samples),
        mask_T=torch.ones(samples, dtype=torch.bool),
        advantages_M=advantages.flatten(),
        beta_M=BETAS[task_N].repeat_interleave(size),
        task_M=task_N.repeat_interleave(size),
        ref_logprobs_T=REFERENCE.log()[action_NG].flatten(),
    )
    config = LossConfig(loss_type="grpo", kl_estimator=estimator, task_norm="task")
    flat_T = logprobs_NG.detach().flatten().requires_grad_()
    terms = grpo_loss(flat_T, batch, LossNormalizer(batch, config, tasks=len(BETAS)), config)
    (push_T,) = torch.autograd.grad(terms.policy + terms.kl, flat_T)
    probability_N = logprobs_NG.detach().sum(dim=1).exp() * len(groups) * len(BETAS)
    surrogate = (logprobs_NG * push_T.reshape(action_NG.shape)).sum(dim=1) @ probability_N
    (gradient,) = torch.autograd.grad(surrogate, theta_KA)
    return gradient


def fixed_point(beta: float, size: int, estimator: str) -> Tensor:
    reward = REWARDS.double() * (size - 1) / size
    if estimator != "k3":
        return (REFERENCE.log() + reward / beta).softmax(dim=0)
    low, high = float(reward.max()), float(reward.max()) + beta
    for _ in range(100):
        middle = (low + high) / 2
        total = float((beta * REFERENCE / (middle - reward)).sum())
        low, high = (middle, high) if total > 1 else (low, middle)
    return beta * REFERENCE / (high - reward)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("estimator", ["k2", "k3_ratio", "k3"])
def test_descent_ends_at_the_fixed_point_of_every_beta(size: int, estimator: str) -> None:
    theta = REFERENCE.log().repeat(len(BETAS), 1).requires_grad_()
    rate = (2.0 / BETAS.double())[:, None]
    for _ in range(400):
        theta = (theta - rate * expected_gradient(theta, size, estimator)).detach()
        theta.requires_grad_()
    for k, beta in enumerate(BETAS.tolist()):
        expected = fixed_point(beta, size, estimator)
        assert float(expected.sum()) == pytest.approx(1)
        torch.testing.assert_close(theta.detach()[k].softmax(0), expected, atol=TOLERANCE, rtol=0)


def test_the_fixed_points_differ() -> None:
    """So that the test above can tell the estimators, the betas and (G - 1) / G apart."""
    points = [
        fixed_point(beta, size, estimator)
        for beta in BETAS.tolist()
        for size in (2, 3)
        for estimator in ("k2", "k3")
    ]
    for i, one in enumerate(points):
        for other in points[:i]:
            assert float((one - other).abs().max()) > 1e-3 > 4 * TOLERANCE
