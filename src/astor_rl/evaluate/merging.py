"""Model Merging: one model out of several specialists that began at the same weights.

Task vectors tau_i = theta_i - theta_0 are joined, and theta_0 + the result is the merged model:

    linear        scale x mean of tau_i; Ilharco et al. 2022, arXiv 2212.04089
    ties          keep the `density` largest |tau_i| of each model, elect each parameter's sign by
                  their sum, scale x mean of those that agree; Yadav et al. 2023, arXiv 2306.01708
    dare_linear   drop entries at random with probability 1 - density, divide what is left by
                  density, then linear; Yu et al. 2023, arXiv 2311.03099
    dare_ties     the same, then elect and average as in ties

Specialists with LoRA adapters of one shape are merged by PEFT's `add_weighted_adapter`. `linear` is
exact (its `cat`: ranks add up; its `linear` would sum the factors A and B apart, whose product is n
times the mean where the specialists began at the same A). The other rules work on A and B apart,
tensor by tensor: the merged adapter is the product of the merged factors, near the formulas and not
equal to them. `merge_weights` is the formulas, over all weights at once.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from astor_rl.checks import check_choice, check_count, check_number
from astor_rl.errors import ModelError

MergeMethod = Literal["linear", "ties", "dare_linear", "dare_ties"]
MERGE_METHODS: tuple[MergeMethod, ...] = get_args(MergeMethod)

MERGED = "merged"
"""Name of the adapter that `merge_adapters` makes."""


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """How specialists are merged.

    Attributes:
        method: see the module's text.
        density: share of each task vector that is kept, in (0, 1]; `linear` keeps all.
        scale: lambda, a factor on the merged task vector, > 0.
        seed: of the entries that DARE drops.
    """

    method: MergeMethod = "linear"
    density: float = 0.2
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("method", self.method, MERGE_METHODS)
        check_number("density", self.density, low=0, high=1, above=True)
        check_number("scale", self.scale, low=0, above=True)
        check_count("seed", self.seed, low=0)


def merge_options(method: str, *, density: float, scale: float, seed: int) -> MergeOptions:
    """Options from plain values, as a command line has them.

    Raises:
        ConfigError: one is out of its range.
    """
    check_choice("method", method, MERGE_METHODS)
    return MergeOptions(cast(MergeMethod, method), density, scale, seed)


@torch.no_grad()
def merge_weights(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], options: MergeOptions
) -> dict[str, Tensor]:
    """Merge models that are given by their weights.

    Args:
        base: theta_0 by name.
        models: the specialists' weights, the same names and shapes. Memory is one float32 task
            vector each, and for `ties` one more.
        options: the rule.

    Returns:
        The merged weights by name, in the base's dtypes.

    Raises:
        ModelError: names or shapes differ.
    """
    vectors = [_task_vector(base, model) for model in models]
    if options.method == "ties":
        for vector in vectors:
            _keep_largest(vector, options.density)
    elif options.method != "linear":
        generator = torch.Generator().manual_seed(options.seed)
        for vector in vectors:
            _drop_at_random(vector, options.density, generator)
    merged = {}
    for name, weight in base.items():
        stack_MX = torch.stack([vector[name] for vector in vectors])
        joined = _agreeing_mean(stack_MX) if "ties" in options.method else stack_MX.mean(dim=0)
        merged[name] = (weight.float() + options.scale * joined).to(weight.dtype)
    return merged


def _task_vector(base: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if odd := sorted(base.keys() ^ model.keys()):
        raise ModelError(
            f"the models have other weights: {len(odd)} names differ, such as {odd[0]!r}"
        )
    for name, weight in base.items():
        if weight.shape != model[name].shape:
            raise ModelError(
                f"weight {name!r} has shape {tuple(model[name].shape)} in one model and "
                f"{tuple(weight.shape)} in the base"
            )
    return {name: model[name].float() - weight.float() for name, weight in base.items()}


def _keep_largest(vector: dict[str, Tensor], density: float) -> None:
    """Set all but the largest entries of the whole vector to 0, in place.

    Among entries of one magnitude the first stay, so that exactly the density's share does.
    """
    sizes = torch.cat([part.abs().flatten() for part in vector.values()])
    dropped = len(sizes) - max(1, math.ceil(density * len(sizes)))
    if not dropped:
        return
    least = sizes.kthvalue(dropped + 1).values
    kept = sizes > least
    ties = (sizes == least).nonzero().flatten()
    kept[ties[: len(sizes) - dropped - int(kept.sum())]] = True
    parts = torch.split(kept, [part.numel() for part in vector.values()])
    for part, keep in zip(vector.values(), parts, strict=True):
        part.mul_(keep.view_as(part))


def _drop_at_random(vector: dict[str, Tensor], density: float, generator: torch.Generator) -> None:
    for part in vector.values():
        kept = torch.rand(part.shape, generator=generator) < density
        part.mul_(kept).div_(density)


def _agreeing_mean(stack_MX: Tensor) -> Tensor:
    """Mean over models of the entries whose sign is that of the sum; 0 where there is none."""
    agrees_MX = (stack_MX.sign() == stack_MX.sum(dim=0).sign()) & (stack_MX != 0)
    count_X = agrees_MX.sum(dim=0).clamp(min=1)
    return (stack_MX * agrees_MX).sum(dim=0) / count_X


def merge_adapters(model: Any, adapters: Sequence[str], options: MergeOptions) -> None:
    """Make the adapter `MERGED` from others of a PEFT model, and make it the active one.

    Args:
        model: with LoRA adapters of the same rank on the same layers.
        adapters: their names.
        options: the rule.

    Raises:
        ModelError: PEFT can't merge them.
    """
    # PEFT multiplies both factors by the root of a weight. TIES then divides each by the number of
    # models that agree; DARE sums them: n^2 makes that the product of their means.
    weight = {"linear": 1 / len(adapters), "dare_linear": 1 / len(adapters) ** 2}
    share = options.scale * weight.get(options.method, 1.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density .* no pruning will be performed")
        torch.manual_seed(options.seed)
        try:
            model.add_weighted_adapter(
                list(adapters),
                [share] * len(adapters),
                MERGED,
                combination_type="cat" if options.method == "linear" else options.method,
                density=None if options.method == "linear" else options.density,
            )
        except ValueError as error:
            raise ModelError(f"the adapters can't be merged: {error}") from error
    model.set_adapter(MERGED)
