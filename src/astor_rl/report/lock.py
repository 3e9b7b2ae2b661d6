"""One trainer a folder: a lock that names its holder and outlives nobody.

The lock file holds the process id *and* the time the process started, because ids are used again:
after a reboot, or in a container where every trainer is process 1.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from astor_rl.errors import StateError
from astor_rl.report.atomic import writing


def started_at(pid: int) -> str | None:
    """When a process of this machine started, as an opaque text; None when it isn't running."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _started_at_by_ps(pid)
    except OSError:
        return None
    # The command name in parentheses may hold spaces; fields are counted after it (proc(5)).
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else f"{_boot_id()}:{fields[18]}"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started_at_by_ps(pid: int) -> str | None:
    answer = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


class FolderLock:
    """Held from construction to `release`. A lock whose process is gone is taken over.

    Raises:
        StateError: a living process holds it, or one of another machine (which can't be asked).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mine = {
            "pid": os.getpid(),
            "start": started_at(os.getpid()),
            "host": socket.gethostname(),
        }
        with self._guarded() as file:
            holder = _read(file)
            if _alive(holder):
                raise StateError(
                    f"run folder {str(path.parent)!r} is in use by process {holder.get('pid')} on "
                    f"{holder.get('host')}; wait for it, or delete {path.name!r} in it if that "
                    "process is gone"
                )
            _write(file, json.dumps(self._mine))

    def release(self) -> None:
        """Give it back. Idempotent; a lock that somebody else took over stays theirs."""
        if not self.path.exists():
            return
        with self._guarded() as file:
            if _read(file) == self._mine:
                _write(file, "")

    @contextmanager
    def _guarded(self) -> Iterator[TextIO]:
        # flock only while reading and writing: two that find a stale lock can't both take it.
        # It can't be the lock itself, since forked sandbox workers would inherit and keep it.
        import fcntl

        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _read(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


def _alive(holder: dict[str, Any]) -> bool:
    if "pid" not in holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    return started_at(int(holder["pid"])) == holder.get("start")
