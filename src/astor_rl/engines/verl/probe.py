"""The gradient probe on sharded models: half-batch gradients by task, and their inner products.

One backward pass for each half of each task, over the rows of all ranks, without an optimiser
step. No rank ever holds a whole gradient: inner products of shards are summed, or sketches of
shards are (docs/method.md, Synergy).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from verl.utils import tensordict_utils as tu
from verl.workers.utils.losses import ppo_loss

from astor_rl.engines.verl.loss import astor_loss
from astor_rl.errors import CapabilityError
from astor_rl.policy.sketch import CountSketch, GradientRows

PROBE_ROW = "probe_row"
"""Column, int64 [rows]: the half a row belongs to, 2 x (place of its task) + half; -1 for none."""
REQUEST = "astor_probe"
"""Batch-wide: the `ProbeRequest` as a dict."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What the driver asks of the workers.

    Attributes:
        samples: judged rollouts of each half over all ranks; the denominators of the means.
        horizon: tokens that stand for a completion's length in the denominator, or 0 for the
            completion's own length (`loss_type = "grpo"`).
        total: add the KL term.
        sketch_dim, memory_limit_mb, seed: see `GradientRows`.
    """

    samples: tuple[int, ...]
    horizon: int
    total: bool
    sketch_dim: int
    memory_limit_mb: int
    seed: int


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What every rank answers alike: the Gram of the halves' mean gradients, and its cost."""

    gram: NDArray[np.float64]
    sketched: bool
    seconds: float


class ShardedRows:
    """Rows of gradients whose parameters are sharded over ranks by FSDP2.

    Args:
        module: its parameters that require gradients, in their order, make up a row.
        rows: how many.
        request: sizes and the sketch's seed.

    Raises:
        CapabilityError: a parameter isn't sharded along its first dimension.
    """

    def __init__(self, module: nn.Module, rows: int, request: ProbeRequest) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._shards = [_shard(parameter) for parameter in self._parameters]
        self.device = _local(self._parameters[0]).device
        largest = torch.tensor(sum(shard.size for shard in self._shards), device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        # Every rank must choose alike; the one with most elements decides.
        self._rows = GradientRows(
            rows,
            int(largest),
            dim=request.sketch_dim,
            memory_limit_mb=request.memory_limit_mb,
            seed=request.seed,
            device=self.device,
        )
        self.sketched = self._rows.sketched
        self._sketch = CountSketch(request.sketch_dim, seed=request.seed)

    def add(self, row: int) -> None:
        """Add the gradients that the parameters hold now."""
        target = self._rows.rows_RD[row]
        start, offset = 0, 0
        for parameter, shard in zip(self._parameters, self._shards, strict=True):
            size = shard.size
            grad = None if parameter.grad is None else _local(parameter.grad)
            if grad is not None and size:
                if self.sketched:
                    # Linear: summed over ranks, each replica gives its part.
                    place, share = offset + shard.offset, 1 / shard.replicas
                    self._sketch.add(target, grad, offset=place, scale=share)
                else:
                    flat = grad.detach().reshape(-1).to(target)
                    target[start : start + size].add_(flat, alpha=shard.replicas**-0.5)
            start += size
            offset += parameter.numel()

    def gram(self) -> NDArray[np.float64]:
        """All inner products of whole rows, the same on every rank."""
        if self.sketched:
            dist.all_reduce(self._rows.rows_RD)
            return self._rows.gram()
        part = torch.from_numpy(self._rows.gram()).to(self._rows.rows_RD.device)
        dist.all_reduce(part)
        total: NDArray[np.float64] = part.cpu().numpy()
        return total


@dataclass(frozen=True, slots=True)
class _Shard:
    """This rank's part of a parameter: elements, where it begins, how many ranks hold it."""

    size: int
    offset: int
    replicas: int


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shard(parameter: Tensor) -> _Shard:
    if not isinstance(parameter, DTensor):
        return _Shard(parameter.numel(), 0, dist.get_world_size())
    mesh, placements = parameter.device_mesh, parameter.placements
    replicas = 1
    for dimension, placement in enumerate(placements):
        if isinstance(placement, Replicate):
            replicas *= mesh.size(dimension)
        elif not placement.is_shard(0):
            raise CapabilityError(
                f"a parameter is placed {placement}; the gradient probe reads parameters that are "
                "sharded along their first dimension (actor strategy fsdp2), or switch "
                "synergy.enabled off"
            )
    _, begins = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
    # From the shape: to index a DTensor is a collective.
    row = math.prod(parameter.shape[1:])
    return _Shard(parameter.to_local().numel(), int(begins[0]) * row if begins else 0, replicas)


def measure(worker: Any, data: TensorDict) -> ProbeAnswer:
    """The Gram of the batch's half-gradients. Every rank of the worker group calls it.

    Args:
        worker: verl's `TrainingWorker`.
        data: this rank's rows, with `probe_row` and a `ProbeRequest`. A half may have no rows
            here: the rank then sends a row without a loss through, since FSDP's gathers wait for
            all ranks.
    """
    started = time.perf_counter()
    request = ProbeRequest(**tu.get_non_tensor_data(data, REQUEST, None))
    engine = worker.engine
    mine_N = data[PROBE_ROW]
    found = [int((mine_N == row).sum()) for row in range(len(request.samples))]
    loss = _loss(worker, request)
    with engine.train_mode():
        rows = ShardedRows(engine.module, len(request.samples), request)
        most_R = torch.tensor(found, device=rows.device)
        dist.all_reduce(most_R, op=dist.ReduceOp.MAX)
        for row, most in enumerate(most_R.tolist()):
            if most:
                engine.optimizer_zero_grad()
                places = (mine_N == row).nonzero().flatten().tolist()
                part = _select(worker, data, places, most)
                tu.assign_non_tensor(part, global_batch_size=request.samples[row])
                engine.forward_backward_batch(part, loss)
                rows.add(row)
        engine.optimizer_zero_grad()
        gram = rows.gram()
    return ProbeAnswer(gram, rows.sketched, time.perf_counter() - started)


def _select(worker: Any, data: TensorDict, places: list[int], count: int) -> TensorDict:
    """The rows at `places`, filled up to `count` with a short row that has no loss."""
    lengths = data["input_ids"].offsets().diff()
    if not worker.engine_config.use_dynamic_bsz:
        size = worker.engine_config.micro_batch_size_per_gpu
        count = -(-count // size) * size
    filler = [int(lengths.argmin())] * (count - len(places))
    part = tu.index_select_tensor_dict(data, [*places, *filler])
    for name in ("response_mask", "loss_mask"):
        part[name] = _emptied(part[name], after=len(places))
    tu.assign_non_tensor(
        part,
        use_remove_padding=worker.model_config.get("use_remove_padding", False),
        use_dynamic_bsz=worker.engine_config.use_dynamic_bsz,
        max_token_len_per_gpu=worker.engine_config.max_token_len_per_gpu,
        micro_batch_size_per_gpu=worker.engine_config.micro_batch_size_per_gpu,
        use_fused_kernels=worker.engine_config.use_fused_kernels,
        calculate_entropy=False,
    )
    return part


def _emptied(mask: Any, *, after: int) -> Tensor:
    """A jagged mask whose rows from `after` on are all 0."""
    offsets = mask.offsets()
    values = mask.values().clone()
    values[int(offsets[after]) :] = 0
    emptied: Tensor = torch.nested.nested_tensor_from_jagged(values, offsets=offsets)
    return emptied


def _loss(worker: Any, request: ProbeRequest) -> Callable[..., tuple[Tensor, dict[str, Any]]]:
    """The policy term as a mean with fixed denominators; see `LossNormalizer.probe_scale`."""
    fixed = {
        "loss_agg_mode": "seq-mean-token-sum-norm" if request.horizon else "seq-mean-token-mean",
        "loss_scale_factor": request.horizon or None,
        "use_kl_loss": False,
    }
    config = copy.deepcopy(worker.loss_fn.keywords["config"])
    for name, value in fixed.items():
        object.__setattr__(config, name, value)  # verl freezes its configs after their checks
    loss = partial(astor_loss if request.total else ppo_loss, config=config)

    def without_metrics(**arguments: Any) -> tuple[Tensor, dict[str, Any]]:
        return loss(**arguments)[0], {}

    return without_metrics
