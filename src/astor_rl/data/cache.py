"""A folder of results that are slow to make: compressed JSON, keyed by all that decides them."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tempfile
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import Any


def cache_dir() -> Path:
    """`$ASTOR_CACHE`, else `astor-rl` below the user's cache folder."""
    chosen = os.environ.get("ASTOR_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "astor-rl"


class Cache:
    """Values by key in one folder. Losing it costs time, never correctness.

    Args:
        room: subfolder, one for each kind of result.
    """

    def __init__(self, room: str) -> None:
        self._folder = cache_dir() / room

    def path(self, key: Any) -> Path:
        """The file of a key (any JSON value)."""
        text = json.dumps(key, sort_keys=True)
        return self._folder / f"{blake2b(text.encode(), digest_size=16).hexdigest()}.json.gz"

    def get(self, key: Any) -> Any:
        """The stored value; None when there is none or the file is damaged."""
        try:
            with gzip.open(self.path(key), "rt", encoding="utf-8") as file:
                stored = json.load(file)
        except (OSError, EOFError, ValueError, zlib.error):
            return None
        # The key is stored too: a hash says little when someone asks what a file is.
        matches = isinstance(stored, dict) and stored.get("key") == json.loads(json.dumps(key))
        return stored.get("value") if matches else None

    def put(self, key: Any, value: Any) -> None:
        """Store a JSON value; readers see the old file or the whole new one.

        A folder that can't be written is not an error: the value is made again next time.
        """
        path = self.path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            try:
                os.close(handle)
                # A fixed time in the header makes equal values equal files.
                with open(name, "wb") as raw, gzip.GzipFile("", "wb", 5, raw, mtime=0) as file:
                    file.write(json.dumps({"key": key, "value": value}).encode())
                os.replace(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
