"""A sampler's weights by name: what must come with an update, and under which names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from astor_rl.errors import StateError


class WeightNames:
    """The parameters of a plain transformers model.

    Attributes:
        shapes: of every parameter by every one of its names.
        ties: every parameter name -> all the names of that parameter, in the model's order.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = list(model.named_parameters(remove_duplicate=False))
        self.shapes = {name: tuple(p.shape) for name, p in parameters}
        by_id: dict[int, list[str]] = {}
        for name, p in parameters:
            by_id.setdefault(id(p), []).append(name)
        self.ties = {name: tuple(names) for names in by_id.values() for name in names}

    def check(self, name: str, tensor: Any) -> None:
        """Raise `StateError` when the name is unknown or the shape differs."""
        shape = self.shapes.get(name)
        if shape is None:
            raise StateError(f"weight {name!r} is unknown to the sampler's model")
        if tuple(tensor.shape) != shape:
            raise StateError(
                f"weight {name!r} has shape {tuple(tensor.shape)}; {shape} is expected"
            )

    def require_all(self, seen: Collection[str]) -> None:
        """Raise `StateError` when a parameter came under none of its names."""
        missing = [name for name in self.shapes if not any(n in seen for n in self.ties[name])]
        if missing:
            raise StateError(f"{len(missing)} weights are missing, the first is {missing[0]!r}")
