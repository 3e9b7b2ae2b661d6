from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from astor_rl.errors import ConfigError, RewardError
from astor_rl.policy.advantages import group_advantages

rewards = st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 0.7, 1.0])


def tensors(draw: Any, groups: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    def table(elements: Any) -> Tensor:
        flat = draw(st.lists(elements, min_size=groups * size, max_size=groups * size))
        return torch.tensor(flat).reshape(groups, size)

    return table(rewards).double(), table(rewards).double(), table(st.booleans())


@st.composite
def batches(draw: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups = draw(st.integers(1, 4))
    tasks = draw(st.lists(st.integers(0, 2), min_size=groups, max_size=groups))
    return *tensors(draw, groups, draw(st.integers(1, 5))), torch.tensor(tasks)


options = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["decoupled", "shaped"]),
        "scale_rewards": st.sampled_from(["group", "batch", "none"]),
    }
)


def trl_advantages(rewards_NG: Tensor, scale: str) -> Tensor:
    """TRL 1.16's `sum_then_normalize` for rewards that are all valid."""
    advantages = rewards_NG - rewards_NG.mean(dim=1, keepdim=True)
    if scale == "group":
        advantages = advantages / (rewards_NG.std(dim=1, keepdim=True) + 1e-4)
    elif scale == "batch":
        advantages = advantages / (rewards_NG.std() + 1e-4)
    return advantages


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_shaped_equals_trl(scale: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    outcomes, formats = (torch.rand(6, 8, generator=generator).double() for _ in range(2))
    result = group_advantages(
        outcomes,
        formats,
        torch.ones(6, 8, dtype=torch.bool),
        task_ids=[0] * 6,
        kind="shaped",
        scale_rewards=scale,
        format_weight=0.3,
    )
    expected = trl_advantages(outcomes + 0.3 * formats, scale)
    torch.testing.assert_close(result.advantages_NG, expected.float())


def test_decoupled_by_hand() -> None:
    result = group_advantages(
        torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.50, 0.51, 0.5, 0.5]]),
        torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]),
        torch.ones(2, 4, dtype=torch.bool),
        task_ids=[0, 1],
        format_weight=0.1,
        std_floor=0.05,
    )
    std = (4 * 0.25 / 3) ** 0.5
    first = [0.5 / std + 0.05, -0.5 / std + 0.05, -0.5 / std - 0.05, 0.5 / std - 0.05]
    # The second group's std, 0.005, is below the floor: tiny differences stay tiny.
    second = [-0.0025 / 0.05, 0.0075 / 0.05, -0.0025 / 0.05, -0.0025 / 0.05]
    torch.testing.assert_close(result.advantages_NG, torch.tensor([first, second]))
    assert result.outcome_varies_N.tolist() == [True, True]


def test_equal_outcomes_with_other_formats_stay_small_only_when_decoupled() -> None:
    outcomes = torch.full((1, 4), 0.3)
    formats = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    decoupled = group_advantages(outcomes, formats, valid, task_ids=[0], kind="decoupled")
    shaped = group_advantages(outcomes, formats, valid, task_ids=[0], kind="shaped")
    torch.testing.assert_close(
        decoupled.advantages_NG, torch.tensor([[0.075, -0.025, -0.025, -0.025]])
    )
    assert shaped.advantages_NG[0, 0] > 1
    assert decoupled.outcome_varies_N.tolist() == [False]
    assert decoupled.nonzero_N.tolist() == [True]


@given(st.floats(0, 1), st.integers(2, 16), options)
def test_equal_rewards_give_exactly_zero(reward: float, size: int, kinds: Any) -> None:
    full = torch.full((1, size), reward, dtype=torch.float64)
    result = group_advantages(full, full, torch.ones(1, size).bool(), task_ids=[0], **kinds)
    assert result.advantages_NG.tolist() == [[0.0] * size]
    assert not result.nonzero_N.any()
    assert not result.outcome_varies_N.any()


@settings(deadline=None)
@given(batches(), options)
def test_invalid_rollouts_change_nothing_but_the_size(batch: Any, kinds: Any) -> None:
    outcomes, formats, valid, tasks = batch
    result = group_advantages(
        torch.where(valid, outcomes, torch.nan), formats, valid, task_ids=tasks, **kinds
    )
    assert result.advantages_NG[~valid].count_nonzero() == 0
    assert torch.isfinite(result.advantages_NG).all()
    # The same rollouts in a table with the invalid ones moved to the end and more padding.
    order = (~valid).int().argsort(dim=1, stable=True)
    padded = [
        torch.cat([x.gather(1, order), torch.ones(len(x), 2).to(x)], dim=1)
        for x in (outcomes, formats)
    ]
    still_valid = torch.cat([valid.gather(1, order), torch.zeros(len(valid), 2).bool()], dim=1)
    again = group_advantages(*padded, still_valid, task_ids=tasks, **kinds)
    torch.testing.assert_close(
        again.advantages_NG[:, :-2], result.advantages_NG.gather(1, order), atol=1e-6, rtol=1e-5
    )


@settings(deadline=None)
@given(batches(), options)
def test_advantages_sum_to_zero_in_each_group(batch: Any, kinds: Any) -> None:
    outcomes, formats, valid, tasks = batch
    result = group_advantages(outcomes, formats, valid, task_ids=tasks, **kinds)
    sums = result.advantages_NG.sum(dim=1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), atol=2e-3, rtol=0)


def test_batch_scale_is_the_tasks_own() -> None:
    outcomes = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.4, 0.6], [0.0, 1.0]])
    args = {"kind": "shaped", "scale_rewards": "batch", "format_weight": 0.0}
    valid = torch.ones(4, 2).bool()
    together = group_advantages(outcomes, outcomes, valid, task_ids=[5, 5, 9, 5], **args)
    alone = group_advantages(
        outcomes[[0, 1, 3]], outcomes[[0, 1, 3]], valid[:3], task_ids=[0, 0, 0], **args
    )
    torch.testing.assert_close(together.advantages_NG[[0, 1, 3]], alone.advantages_NG)
    expected = 0.1 / (torch.tensor([0.4, 0.6]).std() + 1e-4)
    torch.testing.assert_close(together.advantages_NG[2, 1], expected)


def test_no_groups_and_single_rollouts() -> None:
    empty = torch.zeros(0, 0)
    assert group_advantages(empty, empty, empty.bool(), task_ids=[]).nonzero_N.shape == (0,)
    one = torch.ones(1, 1)
    assert group_advantages(one, one, one.bool(), task_ids=[0]).advantages_NG.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "plain"}, "advantage is 'plain'"),
        ({"scale_rewards": "std"}, "scale_rewards is 'std'"),
        ({"format_weight": -1.0}, "format_weight is -1.0"),
        ({"std_floor": 0.0}, "std_floor is 0.0"),
    ],
)
def test_bad_options(changes: Any, message: str) -> None:
    table = torch.zeros(1, 2)
    with pytest.raises(ConfigError, match=message):
        group_advantages(table, table, table.bool(), task_ids=[0], **changes)


def test_bad_rewards() -> None:
    table = torch.zeros(1, 2)
    with pytest.raises(RewardError, match="finite"):
        group_advantages(table + torch.nan, table, table == 0, task_ids=[0])
    with pytest.raises(RewardError, match="shape"):
        group_advantages(table[0], table, table == 0, task_ids=[0])
    with pytest.raises(RewardError, match="task_ids"):
        group_advantages(table, table, table == 0, task_ids=[0, 1])
