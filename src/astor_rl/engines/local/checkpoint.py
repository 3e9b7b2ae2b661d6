"""Checkpoints: complete, atomic, and refused when they don't fit.

A checkpoint is one folder `checkpoint-<step>` that appears whole by a rename, or not at all.
What is in it is plain tensors, numbers and strings, read with `weights_only=True`: a checkpoint
from a stranger can't run code.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from astor_rl.errors import CheckpointError
from astor_rl.report.atomic import discard, replacing, require_space, sweep

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE = "state.pt"


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write `folder/checkpoint-<step>` atomically, then drop all but the newest `keep`.

    What an earlier, killed writer left half done in the folder is deleted first.

    Args:
        folder: holds the run's checkpoints; made when missing.
        step: RL steps (or warm-up steps) done.
        state: nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings, None.
        keep: how many checkpoints stay, at least 1.

    Raises:
        CheckpointError: no disk space, or the folder can't be written. Older checkpoints are
            untouched.
    """
    final = folder / f"checkpoint-{step}"
    sweep(folder)
    require_space(folder, int(_nbytes(state) * 1.05))
    with replacing(final) as partial:
        partial.mkdir()
        try:
            torch.save(_to_tensors(state), partial / _STATE)
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(errno.ENOSPC, str(error)) from error
    for old in list_checkpoints(folder)[:-keep]:
        discard(old)  # after the new one is whole
    return final


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; numpy arrays come back as numpy arrays.

    Raises:
        CheckpointError: it isn't there, is torn, or holds something that isn't plain data.
    """
    file = path / _STATE
    if not file.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or has no {_STATE}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} can't be read: {error}") from error
    restored: dict[str, Any] = _from_tensors(state)
    return restored


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first."""
    found = [(int(match[1]), path) for path in _children(folder) if (match := _match(path))]
    return [path for _, path in sorted(found)]


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = _match(path)
    if match is None:
        raise CheckpointError(f"{path.name!r} is no checkpoint; its name is checkpoint-<step>")
    return int(match[1])


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name)


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


_NUMPY = "__numpy__"


def _to_tensors(value: Any) -> Any:
    """Arrays become marked tensors (bytes for dtypes torch lacks), everything else stays."""
    if isinstance(value, np.ndarray):
        flat = torch.from_numpy(np.ascontiguousarray(value).reshape(-1).view(np.uint8).copy())
        return {_NUMPY: str(value.dtype), "shape": tuple(value.shape), "data": flat}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_tensors(item) for item in value)
    return value


def _from_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        if _NUMPY in value:
            flat = value["data"].numpy().view(np.dtype(value[_NUMPY]))
            return flat.reshape(value["shape"]).copy()
        return {key: _from_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_from_tensors(item) for item in value)
    return value


def _nbytes(value: Any) -> int:
    if isinstance(value, torch.Tensor | np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(_nbytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_nbytes(item) for item in value)
    return 64
