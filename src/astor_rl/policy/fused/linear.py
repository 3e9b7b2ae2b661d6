"""Linear layers that read the same input, with their low-rank adapters, without autograd.

A LoRA layer computes y = x W' + s (x A') B'. Written with modules that is two small products, a
scaling, an addition and their four mirror images; here the low-rank part is added by the product
itself, into the output of the base layer and into the gradient at the input. An adapter whose B is
zero changes no bit of the output, so a fresh policy is exactly its reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from astor_rl.llama_family import hooked

TENSORS = 4
"""Tensors of a `Part` among the arguments of an autograd function."""


class Part(NamedTuple):
    """One linear layer: `weight` [N, K], `bias` [N], and an adapter's `down` [R, K], `up` [N, R].

    `bias` may be None; `down` and `up` are None without an adapter or with it switched off.
    """

    weight: Tensor
    bias: Tensor | None
    down: Tensor | None
    up: Tensor | None
    scale: float


def part_of(module: Any) -> Part | None:
    """The tensors of an `nn.Linear` or of PEFT's LoRA around one; None for anything else.

    Also None where more would have to happen than these products: several adapters, a variant such
    as DoRA, dropout, merged weights, a bias in the adapter, hooks.
    """
    base: Any = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear or hooked(module) or hooked(base):
        return None
    if base is module:
        return Part(base.weight, base.bias, None, None, 1.0)
    if not hasattr(module, "lora_A") or module.merged or module.lora_variant:
        return None
    names = [] if module.disable_adapters else module.active_adapters
    names = [name for name in names if name in module.lora_A]
    if not names:
        return Part(base.weight, base.bias, None, None, 1.0)
    if len(names) > 1 or not _plain_adapter(module, names[0]):
        return None
    down, up = module.lora_A[names[0]].weight, module.lora_B[names[0]].weight
    return Part(base.weight, base.bias, down, up, float(module.scaling[names[0]]))


def _plain_adapter(module: Any, name: str) -> bool:
    dropout, up = module.lora_dropout[name], module.lora_B[name]
    if not isinstance(dropout, nn.Identity) and dropout.p and dropout.training:
        return False
    return type(up) is nn.Linear and bool(up.bias is None) and not module.fan_in_fan_out


def flatten(parts: Sequence[Part]) -> tuple[Tensor | None, ...]:
    """The tensors of several layers as arguments of an autograd function."""
    return tuple(t for part in parts for t in (part.weight, part.bias, part.down, part.up))


def unflatten(
    tensors: Sequence[Tensor | None], scales: Sequence[float], dtype: torch.dtype
) -> list[Part]:
    """The parts again, in the compute type; a frozen base is in it already and isn't copied."""

    cast: list[Any] = [None if tensor is None else tensor.to(dtype) for tensor in tensors]
    places = range(0, len(cast), TENSORS)
    return [
        Part(cast[i], cast[i + 1], cast[i + 2], cast[i + 3], scale)
        for i, scale in zip(places, scales, strict=True)
    ]


def column_slices(parts: Sequence[Part]) -> Iterator[tuple[Part, slice]]:
    """Each part and its columns of the common output."""
    start = 0
    for part in parts:
        stop = start + len(part.weight)
        yield part, slice(start, stop)
        start = stop


class _Adapter(NamedTuple):
    """An adapted part's number, its columns of the output and of the low-rank activations."""

    number: int
    columns: slice
    ranks: slice
    up: Tensor
    scale: float


def _adapters(parts: Sequence[Part]) -> Iterator[_Adapter]:
    start = 0
    for number, (part, columns) in enumerate(column_slices(parts)):
        if part.down is not None and part.up is not None:
            stop = start + len(part.down)
            yield _Adapter(number, columns, slice(start, stop), part.up, part.scale)
            start = stop


def low_rank(x: Tensor, parts: Sequence[Part]) -> Tensor | None:
    """x A' of all adapters side by side, [S, sum of R], or None without any."""
    downs = [part.down for part in parts if part.down is not None]
    return x @ torch.cat(downs).T if downs else None


def project(
    x: Tensor, parts: Sequence[Part], *, onto: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The layers' outputs side by side [S, sum of N], and `low_rank` for the backward pass.

    Args:
        x: [S, K] in the compute type.
        parts: in the compute type.
        onto: what the outputs are added to (a residual stream), in any type; unchanged.
    """
    low = low_rank(x, parts)
    if onto is not None and onto.dtype == x.dtype:
        out = torch.addmm(onto, x, parts[0].weight.T)
    else:
        out = x.new_empty(len(x), sum(len(part.weight) for part in parts))
        for part, columns in column_slices(parts):
            torch.mm(x, part.weight.T, out=out[:, columns])
    for part, columns in column_slices(parts):
        if part.bias is not None:
            out[:, columns] += part.bias
    if low is not None:
        for one in _adapters(parts):
            out[:, one.columns].addmm_(low[:, one.ranks], one.up.T, alpha=one.scale)
    if onto is not None and onto.dtype != x.dtype:
        out = onto + out
    return out, low


def project_backward(
    grad: Tensor,
    x: Tensor,
    low: Tensor | None,
    parts: Sequence[Part],
    wanted: Sequence[bool],
    *,
    input_grad: bool = True,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients at the input and at `flatten(parts)`, in the compute type.

    Args:
        grad: at the outputs, [S, sum of N], compute type.
        x: the input, [S, K].
        low: what `project` returned.
        parts: in the compute type.
        wanted: for each of the parts' tensors, whether its gradient is needed.
        input_grad: whether the input's is.
    """
    grads: list[Tensor | None] = [None] * len(wanted)
    grad_x: Tensor | None = None
    for number, (part, columns) in enumerate(column_slices(parts)):
        mine = grad[:, columns]
        if input_grad:
            grad_x = mine @ part.weight if grad_x is None else grad_x.addmm_(mine, part.weight)
        if wanted[number * TENSORS]:
            grads[number * TENSORS] = mine.T @ x
        if wanted[number * TENSORS + 1]:
            grads[number * TENSORS + 1] = mine.sum(dim=0)
    if low is not None:
        _adapters_backward(grad, x, low, parts, grads, grad_x)
    return grad_x, grads


def _adapters_backward(
    grad: Tensor,
    x: Tensor,
    low: Tensor,
    parts: Sequence[Part],
    grads: list[Tensor | None],
    grad_x: Tensor | None,
) -> None:
    """Fill in the adapters' gradients and add their part to the gradient at the input."""
    grad_low = torch.empty_like(low)
    for one in _adapters(parts):
        torch.mm(grad[:, one.columns], one.up * one.scale, out=grad_low[:, one.ranks])
    grad_downs = grad_low.T @ x
    for one in _adapters(parts):
        place = one.number * TENSORS
        grads[place + 2] = grad_downs[one.ranks]
        grads[place + 3] = (grad[:, one.columns].T @ low[:, one.ranks]) * one.scale
    if grad_x is not None:
        grad_x.addmm_(grad_low, torch.cat([p.down for p in parts if p.down is not None]))
