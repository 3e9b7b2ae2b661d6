"""Digests of the files that a run reads, so that a comparison notices when they change."""

from __future__ import annotations

from collections.abc import Iterator
from glob import glob
from hashlib import blake2b
from pathlib import Path

from astor_rl.config import RunConfig, as_list

_WHOLE = 1 << 28
"""Bytes up to which a file's whole content counts; of larger ones its size and both ends."""
_END = 1 << 20


def digests(config: RunConfig, *, base_dir: Path) -> dict[str, str]:
    """By name of the input, a digest of its content; only of inputs that are local files.

    Args:
        config: names the sources and the model.
        base_dir: relative sources start here.
    """
    found: dict[str, str] = {}
    for name, path in _inputs(config, base_dir):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        digest = blake2b(digest_size=16)
        for file in files:
            if file.is_file():
                digest.update(file.name.encode())
                _add(digest, file)
        if path.exists():
            found[name] = digest.hexdigest()
    return found


def _inputs(config: RunConfig, base_dir: Path) -> Iterator[tuple[str, Path]]:
    yield "model", Path(config.model)
    for task in config.tasks:
        given = (task.source, task.validation_source, task.test_source)
        for spec in (spec for value in given for spec in as_list(value)):
            kind, _, place = spec.partition(":")
            if kind == "jsonl":
                for path in sorted(glob(str(base_dir / place))):
                    yield f"{spec} {Path(path).name}", Path(path)


def _add(digest: blake2b, file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _WHOLE:
            digest.update(stream.read())
            return
        digest.update(str(size).encode() + stream.read(_END))
        stream.seek(-_END, 2)
        digest.update(stream.read())
