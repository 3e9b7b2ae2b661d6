"""Group-relative advantages from outcome and format rewards (docs/method.md, Advantage)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from astor_rl.errors import ConfigError, RewardError

AdvantageKind = Literal["decoupled", "shaped"]
"""`shaped`: plain GRPO on outcome + weight x format; `decoupled`: the format part never scales."""

ScaleRewards = Literal["group", "batch", "none"]
"""Which standard deviation divides: the group's, the task's over the batch, or none."""

SHAPED_EPSILON = 1e-4
"""TRL 1.16 adds this to the standard deviation."""


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages of a step and which groups carry a signal.

    Attributes:
        advantages_NG: float32; exactly 0 for invalid rollouts and for groups of equal rewards.
        nonzero_N: whether any advantage of the group is non-zero.
        outcome_varies_N: whether two valid rollouts of the group have different outcomes: the
            groups that synergy is measured from (docs/method.md, Synergy).
    """

    advantages_NG: Tensor
    nonzero_N: Tensor
    outcome_varies_N: Tensor


def group_advantages(
    outcomes_NG: Tensor,
    formats_NG: Tensor,
    valid_NG: Tensor,
    *,
    task_ids: Tensor | Sequence[int],
    kind: AdvantageKind = "decoupled",
    scale_rewards: ScaleRewards = "group",
    format_weight: float = 0.1,
    std_floor: float = 0.05,
) -> GroupAdvantages:
    """Turn rewards into advantages (docs/method.md, Advantage).

    `decoupled`: (o - mean o) / max(std o, std_floor) + format_weight (f - mean f).
    `shaped`: (r - mean r) / (std r + 1e-4) with r = o + format_weight f, as TRL 1.16 does.
    Means are the group's; standard deviations are unbiased and are the group's, the task's over
    all its valid rollouts of the batch (`batch`), or left out (`none`). Groups of different size
    share one rectangle: pad with `valid_NG` False.

    Args:
        outcomes_NG: outcome rewards in [0, 1]; whatever stands at an invalid place is not read.
        formats_NG: format rewards in [0, 1]; likewise.
        valid_NG: bool; False where the verifier failed or the place is padding.
        task_ids: task of each group, [N] integers >= 0.
        kind: see `AdvantageKind`.
        scale_rewards: see `ScaleRewards`.
        format_weight: w_f >= 0.
        std_floor: s_floor > 0, only for `decoupled`.

    Raises:
        ConfigError: an unknown `kind` or `scale_rewards`, or a number out of range.
        RewardError: shapes differ, or a valid reward is not finite.
    """
    _check_options(kind, scale_rewards, format_weight, std_floor)
    valid = valid_NG.bool()
    outcomes = _rewards("outcome", outcomes_NG, valid)
    formats = _rewards("format", formats_NG, valid)
    tasks_N = torch.as_tensor(task_ids, dtype=torch.long, device=valid.device)
    if tasks_N.shape != valid.shape[:1]:
        raise RewardError(
            f"task_ids have shape {list(tasks_N.shape)}; one for each of {valid.shape[0]} groups"
        )
    if kind == "shaped":
        rewards = outcomes + format_weight * formats
        advantages = _centre(rewards, valid)
        if scale_rewards != "none":
            std_N = _std(rewards, valid, tasks_N, scale_rewards)
            advantages = advantages / (std_N[:, None] + SHAPED_EPSILON)
    else:
        advantages = _centre(outcomes, valid)
        if scale_rewards != "none":
            std_N = _std(outcomes, valid, tasks_N, scale_rewards)
            advantages = advantages / std_N.clamp(min=std_floor)[:, None]
        advantages = advantages + format_weight * _centre(formats, valid)
    return GroupAdvantages(
        advantages_NG=advantages.float(),
        nonzero_N=(advantages != 0).any(dim=1),
        outcome_varies_N=_varies(outcomes, valid),
    )


def _check_options(kind: str, scale: str, format_weight: float, std_floor: float) -> None:
    if kind not in get_args(AdvantageKind):
        raise ConfigError(f"advantage is {kind!r}; it must be one of {get_args(AdvantageKind)}")
    if scale not in get_args(ScaleRewards):
        raise ConfigError(f"scale_rewards is {scale!r}; it must be one of {get_args(ScaleRewards)}")
    if not format_weight >= 0:
        raise ConfigError(f"format_weight is {format_weight!r}; it must be a number >= 0")
    if not std_floor > 0:
        raise ConfigError(f"std_floor is {std_floor!r}; it must be a number > 0")


def _rewards(name: str, rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """Float64 rewards with 0 at invalid places, so that a NaN there can't reach a sum."""
    if rewards_NG.shape != valid_NG.shape or rewards_NG.dim() != 2:
        raise RewardError(
            f"{name} rewards have shape {list(rewards_NG.shape)}; it must be [groups, rollouts] "
            f"like the valid mask's {list(valid_NG.shape)}"
        )
    rewards = torch.where(valid_NG, rewards_NG.double(), 0.0)
    if not bool(torch.isfinite(rewards).all()):
        raise RewardError(f"{name} rewards of valid rollouts must be finite numbers")
    return rewards


def _varies(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """Whether valid rewards of a group differ: compared, as a float std of equals may not be 0."""
    if not rewards_NG.numel():
        return torch.zeros(len(rewards_NG), dtype=torch.bool, device=rewards_NG.device)
    highest = torch.where(valid_NG, rewards_NG, -torch.inf).amax(dim=1)
    lowest = torch.where(valid_NG, rewards_NG, torch.inf).amin(dim=1)
    return highest > lowest


def _centre(rewards_NG: Tensor, valid_NG: Tensor) -> Tensor:
    """Rewards less their group's mean; exactly 0 where invalid and where a group's are equal."""
    count_N = valid_NG.sum(dim=1).clamp(min=1)
    centred = rewards_NG - (rewards_NG.sum(dim=1) / count_N)[:, None]
    return torch.where(valid_NG & _varies(rewards_NG, valid_NG)[:, None], centred, 0.0)


def _std(rewards_NG: Tensor, valid_NG: Tensor, tasks_N: Tensor, scale: ScaleRewards) -> Tensor:
    """Unbiased standard deviation for each group, [N]; 0 where fewer than two are valid."""
    if scale == "group":
        segments_N = torch.arange(len(tasks_N), device=tasks_N.device)
    else:
        segments_N = torch.unique(tasks_N, return_inverse=True)[1]
    count = _segment_sum(valid_NG.double(), segments_N)
    mean = _segment_sum(rewards_NG, segments_N) / count.clamp(min=1)
    deviation = torch.where(valid_NG, rewards_NG - mean[segments_N][:, None], 0.0)
    variance = _segment_sum(deviation.square(), segments_N) / (count - 1).clamp(min=1)
    return variance.sqrt()[segments_N]


def _segment_sum(values_NG: Tensor, segments_N: Tensor) -> Tensor:
    """Sum over rollouts, then over the groups of each segment; at most N segments."""
    sums_N = torch.zeros(len(segments_N), dtype=values_NG.dtype, device=values_NG.device)
    return sums_N.index_add(0, segments_N, values_NG.sum(dim=1))
