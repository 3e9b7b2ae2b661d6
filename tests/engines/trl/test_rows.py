"""Parts of a micro-batch, and metrics put together again."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from astor_rl.engines.trl.rows import (
    BETA,
    HALF,
    TASK,
    homogeneous,
    merge_metrics,
    part_weight,
    take,
    token_weights,
)
from astor_rl.policy.loss import LossType


def batch() -> dict[str, Any]:
    return {
        BETA: torch.tensor([0.1, 0.2, 0.1, 0.2], dtype=torch.float64),
        TASK: torch.tensor([0, 1, 2, 1]),
        HALF: torch.tensor([0, 1, 0, 0]),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]),
        "num_items_in_batch": torch.tensor(6),
    }


def test_parts_share_a_beta_and_on_probes_a_task_and_half():
    parts = [part.tolist() for part in homogeneous(batch(), halves=False)]
    assert sorted(parts) == [[0, 2], [1, 3]]
    parts = [part.tolist() for part in homogeneous(batch(), halves=True)]
    assert sorted(parts) == [[0], [1], [2], [3]]


def test_a_part_takes_rows_and_leaves_scalars():
    part = take(batch(), torch.tensor([1, 3]))
    assert part[TASK].tolist() == [1, 1]
    assert part["completion_mask"].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert int(part["num_items_in_batch"]) == 6


@pytest.mark.parametrize(
    ("loss_type", "weight"), [("dapo", 1), ("bnpo", 3 / 6), ("grpo", 2 / 4), ("dr_grpo", 2 / 4)]
)
def test_a_parts_weight_undoes_its_own_denominator(loss_type, weight):
    assert part_weight(loss_type, batch(), torch.tensor([0, 2])) == pytest.approx(weight)


@pytest.mark.parametrize("loss_type", get_args(LossType))
def test_masked_tokens_weigh_nothing(loss_type):
    mask = batch()["completion_mask"].bool()
    weights = token_weights(loss_type, mask)
    assert not weights[~mask].any()
    expected = [1, 1, 0, 1] if loss_type == "grpo" else [3, 1, 0, 2]
    assert weights.sum(dim=1).tolist() == pytest.approx(expected)


def test_merged_metrics_are_those_of_all_rows():
    parts = [
        (30, {"kl": [0.1], "clip_ratio/low_min": [0.2], "clip_ratio/high_max": [0.3]}),
        (10, {"kl": [0.5], "clip_ratio/low_min": [0.1], "clip_ratio/high_max": [math.nan]}),
    ]
    assert merge_metrics(parts) == pytest.approx(
        {"kl": 0.2, "clip_ratio/low_min": 0.1, "clip_ratio/high_max": 0.3}
    )
    assert merge_metrics([(0, {"kl": [1.0]}), (0, {"kl": [3.0], "none": [math.nan]})]) == {
        "kl": 2.0
    }
