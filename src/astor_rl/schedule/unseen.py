"""A uniform draw without replacement from a range that is too long to list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_keys
from astor_rl.errors import StateError

IntArray = NDArray[np.int64]


class Unseen:
    """The indices 0 .. size-1 that were not drawn yet.

    A Fisher-Yates shuffle that is carried out only as far as it was drawn: positions `taken` and
    up hold the unseen indices, position p holds p unless `moved` says otherwise. Time and memory
    are O(drawn), and a draw never has to be rejected, however few indices are left.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._moved: dict[int, int] = {}

    @property
    def size(self) -> int:
        """All indices, drawn or not."""
        return self._size

    @property
    def left(self) -> int:
        """Indices not drawn yet."""
        return self._size - self._taken

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Take `count` <= `left` different indices, every subset and order equally likely."""
        drawn = np.empty(count, dtype=np.int64)
        for i in range(count):
            position = int(rng.integers(self._taken, self._size))
            drawn[i] = self._moved.get(position, position)
            first = self._moved.pop(self._taken, self._taken)
            if position != self._taken:
                self._moved[position] = first
            self._taken += 1
        return drawn

    @classmethod
    def without(cls, size: int, drawn: Iterable[int]) -> Unseen:
        """The indices of a range except the given ones."""
        unseen = cls(size)
        gone = set(drawn)
        unseen._taken = len(gone)
        homeless = (index for index in range(len(gone)) if index not in gone)
        for position in sorted(index for index in gone if index >= len(gone)):
            unseen._moved[position] = next(homeless)
        return unseen

    def state_dict(self) -> dict[str, Any]:
        """Two integers and the displaced positions as numpy arrays."""
        return {
            "size": self._size,
            "taken": self._taken,
            "positions": np.fromiter(self._moved.keys(), dtype=np.int64, count=len(self._moved)),
            "indices": np.fromiter(self._moved.values(), dtype=np.int64, count=len(self._moved)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`.

        Raises:
            StateError: entries are missing or the size differs.
        """
        check_keys("unseen prompts", state, ["size", "taken", "positions", "indices"])
        if state["size"] != self._size:
            raise StateError(f"state of unseen prompts is of {state['size']}, not {self._size}")
        self._taken = int(state["taken"])
        positions, indices = np.asarray(state["positions"]), np.asarray(state["indices"])
        self._moved = dict(zip(positions.tolist(), indices.tolist(), strict=True))
