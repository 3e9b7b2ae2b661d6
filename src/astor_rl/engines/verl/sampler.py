"""The coordination as a sampler of verl's stateful data loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch.utils.data import Sampler

from astor_rl.engines.verl.coordination import Coordination


class PlanSampler(Sampler[int]):
    """Hands out the rows of one plan after the other; it never ends.

    It is its own iterator and holds the state, so that `StatefulDataLoader` saves and restores
    just that, without replaying rows. The loader must not read ahead: with worker processes it
    would draw rows before the rewards that decide them.
    """

    def __init__(self, coordination: Coordination) -> None:
        self.coordination = coordination

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> int:
        return self.coordination.next_row()

    def __len__(self) -> int:
        return len(self.coordination)

    def state_dict(self) -> dict[str, Any]:
        """The coordination's."""
        return self.coordination.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The coordination's. Raises `StateError`."""
        self.coordination.load_state_dict(state)
