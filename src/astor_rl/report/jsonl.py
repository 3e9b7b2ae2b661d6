"""JSON lines that survive a kill: whole lines appended, a torn last line forgiven."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from astor_rl.errors import DataError
from astor_rl.report.atomic import SURROGATES, dumps, replacing, writing


class JsonLines:
    """An append-only file. Each record reaches the kernel as one write before `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line. Raises `CheckpointError` when it can't be written."""
        line = (dumps(record) + "\n").encode(errors=SURROGATES)
        with writing(self.path):
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def sync(self) -> None:
        """Make all lines survive a power cut."""
        if self._descriptor is not None:
            with writing(self.path):
                os.fsync(self._descriptor)

    def keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Drop the lines that aren't wanted, and a torn last one, in one stroke."""
        self.close()
        if not self.path.exists():
            return
        with (
            replacing(self.path) as partial,
            partial.open("w", encoding="utf-8", newline="\n") as file,
        ):
            for line, record in _lines(self.path):
                if wanted(record):
                    file.write(line)

    def close(self) -> None:
        """Idempotent; a later `append` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file; an absent file has none.

    A last line without its end is what a kill leaves: it is passed over.

    Raises:
        DataError: another line is no JSON object; names the file and line.
    """
    return [record for _, record in _lines(path)] if path.exists() else []


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            yield line, _record(line, f"{path.name}:{number}")


def _record(line: str, origin: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{origin}: not valid JSON ({error}); the run folder is damaged") from None
    if not isinstance(record, dict):
        raise DataError(f"{origin}: {type(record).__name__} where a JSON object should be")
    return record
