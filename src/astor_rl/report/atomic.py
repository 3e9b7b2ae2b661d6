"""Files that are either whole or not there: what a crash, a full disk or Ctrl-C leaves behind.

Checkpoints and everything else a run rewrites goes through here. A file is written under a
temporary name in its own folder, synced to the disk and renamed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from astor_rl.errors import CheckpointError

TEMPORARY = ".partial"
"""Suffix of files and folders that are being written; left-overs may be deleted."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SURROGATES = "backslashreplace"
"""Encoding errors of JSON text: half a character a model left becomes JSON's own escape of it."""


def json_ready(value: Any) -> Any:
    """A copy of `value` that is valid JSON: numbers that aren't finite become null.

    Mappings (keys as text), lists, tuples, numpy scalars and arrays, paths and the JSON types are
    taken.

    Raises:
        TypeError: a value of another type; names it.
    """
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): json_ready(item) for key, item in value.items()}
        case list() | tuple():
            return [json_ready(item) for item in value]
        case np.ndarray() | np.generic():
            return json_ready(value.tolist())
        case os.PathLike():
            return os.fspath(value)
    raise TypeError(f"{value!r} is {type(value).__name__}; JSON has no such type")


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`json_ready(value)` as text, on one line unless indented."""
    return json.dumps(json_ready(value), ensure_ascii=False, allow_nan=False, indent=indent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one stroke. Raises `CheckpointError`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors=SURROGATES)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON in one stroke. Raises `CheckpointError`."""
    write_text(path, dumps(value, indent=1) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name; what is written there takes the place of `path` on success.

    Works for a file and for a whole folder (the caller makes it). A folder that is replaced is
    moved aside first and deleted last, so that one whole version exists at every moment.

    Raises:
        CheckpointError: the disk is full or the place can't be written. Nothing is left behind,
            and what was there before is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            sync(partial)
            if partial.is_dir() and path.exists():
                _swap_folders(partial, path)
            else:
                partial.replace(path)
            _sync_one(path.parent)
        finally:
            remove(partial)


def _swap_folders(new: Path, path: Path) -> None:
    # rename(2) replaces a folder only when it is empty, hence the step aside.
    aside = path.with_name(f".{path.name}.{os.getpid()}.old{TEMPORARY}")
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    remove(aside)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into one line about `path`. Raises `CheckpointError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "set output_dir to a place that can be written"
        if error.errno in _FULL:
            free = free_bytes(path)
            left = "" if free is None else f" ({size(free)} free there)"
            reason, remedy = reason + left, "free some space or set output_dir to another place"
        raise CheckpointError(f"can't write {str(path)!r}: {reason}; {remedy}") from error


def require_space(folder: Path, needed: int) -> None:
    """Check that `needed` bytes fit where `folder` is (or will be).

    Raises:
        CheckpointError: they don't; names both sizes.
    """
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise CheckpointError(
            f"a checkpoint in {str(folder)!r} needs {size(needed)} and {size(free)} are free; "
            "free some space or set output_dir to another place"
        )


def free_bytes(path: Path) -> int | None:
    """Bytes free for this user on the file system that holds (or will hold) `path`."""
    for place in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def sync(path: Path) -> None:
    """Make a file, or a folder and all below it, survive a power cut."""
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            _sync_one(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a file or a folder so that it is gone at once: a kill midway can't leave half of it.

    Raises:
        CheckpointError: the folder it is in can't be written.
    """
    with writing(path):
        aside = path.with_name(f".{path.name}.{os.getpid()}.old{TEMPORARY}")
        path.rename(aside)
        remove(aside)


def sweep(folder: Path) -> None:
    """Delete what killed writers left half done in `folder`; nobody else may be writing there."""
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.name.endswith(TEMPORARY):
                remove(entry)


def remove(path: Path) -> None:
    """Delete a file or a folder; it need not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size(count: int) -> str:
    """Bytes for people: `1.5 GB`. Decimal units."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
