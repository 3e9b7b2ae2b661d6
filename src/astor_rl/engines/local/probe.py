"""The gradient probe: half-batch policy gradients by task, and their inner products.

The Gram goes to the coordinator, which turns it into synergy (docs/method.md, Synergy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from astor_rl.engines.local.distributed import World
from astor_rl.engines.shared import HalfRows
from astor_rl.plan import GradientProbe
from astor_rl.policy.loss import LossNormalizer, LossTerms
from astor_rl.policy.packing import Packed
from astor_rl.policy.sketch import Half
from astor_rl.utility.synergy import SynergyOptions

NO_SIGNAL = 2
"""In a bin's key (task, half), where groups without outcome variance go."""


class HalfGradients:
    """Collects half-gradients while an update runs.

    Args:
        counts: by (task number, half), this rank's rollouts and groups with outcome variance.
        parameters: what gradients are taken of, in a fixed order.
        options: which gradient, and how much memory whole gradients may take.
        world: halves are summed over its ranks.
        seed: of this probe's sketch, fresh at every probe.
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
        # Every rank knows the same halves, so none waits for another.
        found = sorted({half for part in everyone for half in part})
        samples, groups = (
            {half: sum(part.get(half, (0, 0))[i] for part in everyone) for half in found}
            for i in (0, 1)
        )
        self._samples = samples
        self._total = options.gradient == "total"
        self._world = world
        self._rows = HalfRows(groups, parameters, options, seed=seed)

    @property
    def seconds(self) -> float:
        """Wall time spent on the probe alone."""
        return self._rows.seconds

    def wants(self, packed: Packed) -> bool:
        """Whether a bin belongs to a half that is measured."""
        return packed.key in self._rows.halves

    def backward(self, terms: LossTerms, packed: Packed) -> None:
        """Back-propagate a bin's loss into `grad`, and its probed part into its half as well."""
        probed = terms.policy + terms.kl if self._total else terms.policy
        apart = not self._total and terms.kl.requires_grad
        grads = torch.autograd.grad(
            probed, self._rows.parameters, retain_graph=apart, materialize_grads=True
        )
        self._rows.add(packed.key, grads)  # type: ignore[arg-type]
        for parameter, grad in zip(self._rows.parameters, grads, strict=True):
            if parameter.grad is None:
                parameter.grad = grad
            else:
                parameter.grad.add_(grad)
        if apart:
            # Only this second pass is the probe's cost: the first would have happened anyway.
            started = self._rows.now()
            torch.autograd.backward(terms.kl)
            self._rows.seconds += self._rows.now() - started

    def gram(self, normalizer: LossNormalizer, names: Sequence[str]) -> GradientProbe | None:
        """Inner products of the halves' mean gradients; None without a task that has both.

        Args:
            normalizer: the step's, to undo its denominators.
            names: task names by number.
        """
        if not self._rows.halves:
            return None
        started = self._rows.now()
        self._world.sum_([self._rows.tensor])
        scale_R = np.array(
            [normalizer.probe_scale(task, self._samples[task, h]) for task, h in self._rows.halves]
        )
        probe = self._rows.gram(names, scale_R)
        self._rows.seconds += self._rows.now() - started
        return probe
