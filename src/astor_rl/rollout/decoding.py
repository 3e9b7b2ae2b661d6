"""From logits to tokens: one draw per row, fixed by the row's own random numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astor_rl.errors import ModelError

_BLOCK = 256
_ROWS_AT_ONCE = 32


def uniforms(seed: int, index: int, count: int) -> NDArray[np.float64]:
    """The random numbers of one completion: float64 in [0, 1), the i-th for its i-th token.

    Philox (Salmon et al. 2011), keyed by (seed, index): no other row or step can shift them.
    """
    key = np.array([seed % 2**64, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def draw(
    logits_UV: Tensor, temperature_U: Tensor, source_N: Tensor, uniform_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw N tokens, several of which may come from one row of logits.

    Inverse-CDF sampling of softmax(logits / temperature) in two levels (blocks, then inside the
    block): one exponential per logit and no sort, no per-logit random number. Temperature 0 takes
    the largest logit; the reported log-probability is then under temperature 1.

    Args:
        logits_UV: any float dtype; computed with in float32, cumulated in float64.
        temperature_U: float32, >= 0.
        source_N: int64 in [0, U): the row each draw is from, ascending.
        uniform_N: float64 in [0, 1).

    Returns:
        tokens [N] int64 and their log-probabilities [N] float32, nats.

    Raises:
        ModelError: logits are NaN, or all of a row are -inf.
    """
    parts = []
    for start in range(0, len(logits_UV), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(logits_UV))
        inside = (source_N >= start) & (source_N < stop)
        parts.append(
            _draw(
                logits_UV[start:stop],
                temperature_U[start:stop],
                source_N[inside] - start,
                uniform_N[inside],
            )
        )
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _draw(
    logits: Tensor, temperature: Tensor, source: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    rows, vocabulary = logits.shape
    greedy = temperature == 0
    scale = torch.where(greedy, 1.0, temperature).unsqueeze(1)
    blocks = -(-vocabulary // _BLOCK)
    weight = torch.empty(rows, blocks * _BLOCK, dtype=torch.float32, device=logits.device)
    weight[:, vocabulary:] = 0
    scaled = weight[:, :vocabulary]
    torch.div(logits, scale, out=scaled)
    top = scaled.amax(-1, keepdim=True)
    best = scaled.argmax(-1) if bool(greedy.any()) else None
    scaled.sub_(top).exp_()

    weight_UnB = weight.view(rows, blocks, _BLOCK)
    sums = weight_UnB.sum(-1).double()
    ends = sums.cumsum(-1)
    total = ends[:, -1]
    if not bool(torch.isfinite(total).all()):
        raise ModelError("the model's logits are NaN; the weights or the learning rate are wrong")

    # Just below the total, so that the first end beyond the target is of a block with weight.
    target = (uniform * total[source]).minimum(total[source] * (1 - 1e-15))
    block = torch.searchsorted(ends[source], target.unsqueeze(1), right=True).squeeze(1)
    rest = target - (ends[source, block] - sums[source, block])
    inner = weight_UnB[source, block].double().cumsum(-1)
    # The block's float32 sum and this float64 one differ in the last digits.
    rest = rest.clamp(min=0.0).minimum(inner[:, -1] * (1 - 1e-15))
    place = torch.searchsorted(inner, rest.unsqueeze(1), right=True).squeeze(1)
    token = block * _BLOCK + place
    if best is not None:
        token = torch.where(greedy[source], best[source], token)
    chosen = logits[source, token].float() / scale[source, 0]
    return token, (chosen - top[source, 0]) - total[source].log().float()
