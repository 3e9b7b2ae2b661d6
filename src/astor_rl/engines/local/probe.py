"""The gradient probe: half-batch policy gradients by task, and their inner products.

The Gram goes to the coordinator, which turns it into synergy (docs/method.md, Synergy).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from astor_rl.engines.local.distributed import World
from astor_rl.plan import GradientProbe
from astor_rl.policy.loss import LossNormalizer, LossTerms
from astor_rl.policy.packing import Packed
from astor_rl.policy.sketch import GradientRows
from astor_rl.utility.synergy import SynergyOptions

NO_SIGNAL = 2
"""In a bin's key (task, half), where groups without outcome variance go."""

Half = tuple[int, int]


class HalfGradients:
    """Collects half-gradients while an update runs.

    Args:
        counts: by (task number, half), this rank's rollouts and groups with outcome variance.
        parameters: what gradients are taken of, in a fixed order.
        options: which gradient, and how much memory whole gradients may take.
        world: halves are summed over its ranks.
        seed: of this probe's sketch, fresh at every probe.

    Attributes:
        seconds: wall time spent on the probe alone.
    """

    def __init__(
        self,
        counts: Mapping[Half, tuple[int, int]],
        parameters: Sequence[nn.Parameter],
        options: SynergyOptions,
        *,
        world: World,
        seed: int,
    ) -> None:
        everyone = world.gather(dict(counts))
        found = {half for part in everyone for half in part}
        # Both halves or none. Every rank knows the same list, so none waits for another.
        self._halves = sorted(half for half in found if (half[0], 1 - half[1]) in found)
        self._samples, self._groups = (
            [sum(part.get(half, (0, 0))[i] for part in everyone) for half in self._halves]
            for i in (0, 1)
        )
        self._parameters = parameters
        self._total = options.gradient == "total"
        self._world = world
        self._rows = GradientRows(
            len(self._halves),
            sum(parameter.numel() for parameter in parameters),
            dim=options.sketch_dim,
            memory_limit_mb=options.memory_limit_mb,
            seed=seed,
            device=parameters[0].device,
        )
        self.seconds = 0.0

    def wants(self, packed: Packed) -> bool:
        """Whether a bin belongs to a half that is measured."""
        return packed.key in self._halves

    def backward(self, terms: LossTerms, packed: Packed) -> None:
        """Back-propagate a bin's loss into `grad`, and its probed part into its half as well."""
        probed = terms.policy + terms.kl if self._total else terms.policy
        apart = not self._total and terms.kl.requires_grad
        grads = torch.autograd.grad(
            probed, self._parameters, retain_graph=apart, materialize_grads=True
        )
        self._rows.add(self._halves.index(packed.key), grads)  # type: ignore[arg-type]
        for parameter, grad in zip(self._parameters, grads, strict=True):
            if parameter.grad is None:
                parameter.grad = grad
            else:
                parameter.grad.add_(grad)
        if apart:
            # Only this second pass is the probe's cost: the first would have happened anyway.
            started = time.perf_counter()
            torch.autograd.backward(terms.kl)
            self.seconds += time.perf_counter() - started

    def gram(self, normalizer: LossNormalizer, names: Sequence[str]) -> GradientProbe | None:
        """Inner products of the halves' mean gradients; None without a task that has both.

        Args:
            normalizer: the step's, to undo its denominators.
            names: task names by number.
        """
        if not self._halves:
            return None
        started = time.perf_counter()
        self._world.sum_([self._rows.rows_RD])
        scale_R = np.array(
            [
                normalizer.probe_scale(task, samples)
                for (task, _), samples in zip(self._halves, self._samples, strict=True)
            ]
        )
        products_RR = self._rows.gram() * np.outer(scale_R, scale_R)
        self.seconds += time.perf_counter() - started
        return GradientProbe(
            tasks=tuple(names[task] for task, half in self._halves if half == 0),
            gram_KK=products_RR,
            groups=tuple(self._groups),
            sketched=self._rows.sketched,
        )
