"""A micro-batch taken apart by rows, and its loss and metrics put together again.

TRL has one scalar `beta`. All its normalisations are sums over rows, so a micro-batch whose rows
differ in beta is the weighted sum of parts that don't, each with TRL's own loss.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from astor_rl.policy.loss import LossType

TASK, HALF, BETA = "astor_task", "astor_half", "astor_beta"
"""Row tensors [B] beside TRL's own: task number, half of the probe, KL coefficient."""

NO_HALF = 2
"""In `HALF`: a row that no gradient is measured from."""

Inputs = Mapping[str, Any]


def loss_mask(inputs: Inputs) -> Tensor:
    """Tokens in the loss, bool [B, T]."""
    mask_BT: Tensor = inputs["completion_mask"].bool()
    return mask_BT


def homogeneous(inputs: Inputs, *, halves: bool) -> list[Tensor]:
    """Row numbers of the parts that have one beta, and with `halves` one task and half as well."""
    columns = [inputs[BETA].double()]
    if halves:
        columns += [inputs[TASK].double(), inputs[HALF].double()]
    kinds, kind_B = torch.unique(torch.stack(columns, dim=1), dim=0, return_inverse=True)
    return [(kind_B == kind).nonzero().flatten() for kind in range(len(kinds))]


def take(inputs: Inputs, rows: Tensor) -> dict[str, Any]:
    """The rows of every tensor that has rows; the rest as it is."""
    return {
        name: value[rows] if isinstance(value, Tensor) and value.ndim else value
        for name, value in inputs.items()
    }


def part_weight(loss_type: LossType, inputs: Inputs, rows: Tensor) -> float:
    """What a part's loss counts in its micro-batch's.

    `dapo` divides by the step's tokens whatever the part; `bnpo` by the part's own tokens; `grpo`
    and `dr_grpo` by the part's own rows.
    """
    if loss_type == "dapo":
        return 1.0
    if loss_type == "bnpo":
        mask_BT = loss_mask(inputs)
        return float(mask_BT[rows].sum() / mask_BT.sum().clamp(min=1))
    return len(rows) / len(inputs[BETA])


def token_weights(loss_type: LossType, mask_BT: Tensor) -> Tensor:
    """Each token's weight up to a constant, [B, T]: `grpo` takes a mean over the completion."""
    weights_BT = mask_BT.float()
    if loss_type == "grpo":
        return weights_BT / weights_BT.sum(dim=1, keepdim=True).clamp(min=1)
    return weights_BT


def merge_metrics(parts: Sequence[tuple[float, Mapping[str, Sequence[float]]]]) -> dict[str, float]:
    """One value of each metric that TRL logged for every part.

    Args:
        parts: (tokens, metrics) of each part; the parts' means are weighed by tokens.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for tokens, metrics in parts:
        for name, values in metrics.items():
            found[name] += [(tokens, value) for value in values if not math.isnan(value)]
    return {name: _merged(name, values) for name, values in found.items() if values}


def _merged(name: str, values: Sequence[tuple[float, float]]) -> float:
    if name.endswith("_min"):
        return min(value for _, value in values)
    if name.endswith("_max"):
        return max(value for _, value in values)
    total = sum(tokens for tokens, _ in values)
    if not total:
        return sum(value for _, value in values) / len(values)
    return sum(tokens * value for tokens, value in values) / total
