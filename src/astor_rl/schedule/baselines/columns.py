"""Figures of single prompts, for the arms that choose them.

Dense arrays over a task's prompts: memory and time of these arms grow with the data, which is the
published rules' own cost (they look at every prompt, or at a sample of all).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astor_rl.checks import check_keys

FloatArray = NDArray[np.float64]


class PromptColumns:
    """Named numbers of every prompt of one task.

    Args:
        keys: the task's prompts.
        defaults: each column's name and the value of a prompt that was never changed.
    """

    def __init__(self, keys: Sequence[str], defaults: Mapping[str, float]) -> None:
        self._keys = keys
        self._columns = {
            name: np.full(len(keys), value, dtype=np.float64) for name, value in defaults.items()
        }
        self._touched = np.zeros(len(keys), dtype=bool)

    def __getitem__(self, name: str) -> FloatArray:
        """A column; read it, and write through `put`."""
        return self._columns[name]

    @property
    def touched(self) -> NDArray[np.bool_]:
        """Which prompts were ever written."""
        return self._touched

    def put(self, index: int, **values: float) -> None:
        """Set some of a prompt's figures."""
        self._touched[index] = True
        for name, value in values.items():
            self._columns[name][index] = value

    def state_dict(self) -> dict[str, Any]:
        """The prompts that were written, by key."""
        rows = np.flatnonzero(self._touched)
        return {
            "keys": np.array([self._keys[int(row)].encode() for row in rows], dtype=np.bytes_),
            "index": rows,
            "columns": {name: column[rows].copy() for name, column in self._columns.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`; prompts are found by their keys, those that are gone dropped.

        Raises:
            StateError: entries are missing or unknown.
        """
        check_keys("prompts of the schedule's method", state, ["keys", "index", "columns"])
        check_keys("prompts of the schedule's method", state["columns"], self._columns)
        keys = [key.decode() for key in np.asarray(state["keys"]).tolist()]
        rows = np.asarray(state["index"], dtype=np.int64)
        if any(r >= len(self._keys) or self._keys[r] != k for r, k in zip(rows, keys, strict=True)):
            place = {key: row for row, key in enumerate(self._keys)}
            rows = np.array([place.get(key, -1) for key in keys], dtype=np.int64)
        known = rows >= 0
        self._touched[rows[known]] = True
        for name, column in self._columns.items():
            column[rows[known]] = np.asarray(state["columns"][name], dtype=np.float64)[known]
