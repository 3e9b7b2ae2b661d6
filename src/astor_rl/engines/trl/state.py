"""The coordinator's state in TRL's checkpoint folder: one file of JSON and arrays, no code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from astor_rl.errors import CheckpointError, StateError
from astor_rl.report.atomic import replacing

FILE: Final = "astor_state.npz"
_TREE: Final = "tree"
_ARRAY: Final = "__array__"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `folder/astor_state.npz` in one stroke; the folder is made when missing.

    Raises:
        CheckpointError: the disk is full or the folder can't be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    tree = _without_arrays(state, arrays)
    arrays[_TREE] = np.frombuffer(json.dumps(tree).encode(), dtype=np.uint8)
    with replacing(folder / FILE) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        StateError: the folder has no such file.
        CheckpointError: the file can't be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise StateError(
            f"checkpoint {folder} has no {FILE}: AstorGRPOTrainer didn't write it, so it doesn't "
            "say where the schedule was"
        )
    try:
        # Opened here: `np.load` forgets to close a file that it can't read.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            tree = json.loads(arrays[_TREE].tobytes())
            state: dict[str, Any] = _with_arrays(tree, arrays)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    return state


def _without_arrays(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """The same tree, with each array moved to `arrays` and its name left in its place."""
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(item, arrays) for item in value]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    return value
