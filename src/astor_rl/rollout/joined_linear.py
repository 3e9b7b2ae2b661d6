"""Linear layers that read the same input, run as one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from astor_rl.rollout.packed_linear import reorder


class JoinedPart(nn.Module):
    """Stands where a linear layer stood, so that its weights can be replaced under their name."""

    def __init__(self, joined: JoinedLinear, number: int) -> None:
        super().__init__()
        self._joined, self._number = joined, number

    def take(self, kind: str, tensor: Tensor) -> None:
        """Take over a new `weight` [out, in] or `bias` [out]."""
        if kind == "bias":
            self._joined.set_bias(self._number, tensor)
        else:
            self._joined.offer(self._number, tensor)


class JoinedLinear:
    """Inference only: outputs of several layers side by side, [N, in] -> [N, sum of out].

    Args:
        linears: plain layers of one input size.
        packed: lay the weights out for oneDNN's bf16 kernels (see `packed_linear`). They can't be
            replaced one by one then: new ones wait until those of all layers have come.
    """

    def __init__(self, linears: Sequence[nn.Linear], *, packed: bool) -> None:
        sizes = [one.out_features for one in linears]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self._rows = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._bias = _biases(linears)
        self._waiting: dict[int, Tensor] = {}
        self._packed = packed
        weight = torch.cat([one.weight.detach() for one in linears])
        self._weight = reorder(weight) if packed else weight

    def set_bias(self, number: int, bias: Tensor) -> None:
        """Take over one layer's new bias [out]."""
        assert self._bias is not None
        self._bias[self._rows[number]] = bias

    def offer(self, number: int, weight: Tensor) -> None:
        """Take over one layer's new weights [out, in]."""
        if not self._packed:
            self._weight[self._rows[number]] = weight
            return
        self._waiting[number] = weight.detach().to("cpu", torch.bfloat16, copy=True)
        if len(self._waiting) == len(self._rows):
            self._weight = reorder(torch.cat([self._waiting[n] for n in range(len(self._rows))]))
            self._waiting.clear()

    def forget(self) -> None:
        """Drop what an update that didn't end has left waiting."""
        self._waiting.clear()

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """The product, in x's type, added to `onto` [N, sum of out] if given."""
        out: Tensor
        if not self._packed:
            out = linear(x, self._weight, self._bias)
            return out if onto is None else out.add_(onto)
        kernels = torch.ops.mkldnn._linear_pointwise
        if onto is None:
            out = kernels(x, self._weight, self._bias, "none", [], "")
        else:
            out = kernels.binary(x, onto, self._weight, self._bias, "add")
        return out


def _biases(linears: Sequence[nn.Linear]) -> Tensor | None:
    """Biases one after another, zeros where a layer has none; None if none has one."""
    biases: list[Tensor | None] = [one.bias for one in linears]
    if all(bias is None for bias in biases):
        return None
    like = linears[0].weight.detach()
    return torch.cat(
        [
            like.new_zeros(one.out_features) if bias is None else bias.detach()
            for one, bias in zip(linears, biases, strict=True)
        ]
    )
