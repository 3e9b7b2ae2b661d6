"""Where toolchains run: compilers and test runners, which the Python sandbox can't hold.

That sandbox lets no program be executed. Building and testing C++ or Java executes many, so it
needs a container of another kind: bubblewrap (`bwrap`), without network, with its own processes,
and with a file system in which only system folders, the toolchain and one working folder exist.
Memory isn't limited in it (a Java machine reserves more than it uses), nor the number of processes;
time and file sizes are.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Protocol

from astor_rl.sandbox.inside.emptying import emptied

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
)
INSIDE = Path("/work")
"""Where `Bubblewrap` has a command's folder, by its name."""
_LARGEST_KB = 512 * 1024
"""Largest file that a command may write, KiB."""
TEMPORARY = "{temporary}"
"""In a value of an environment: a folder that is this one command's own."""
_HEAD, _TAIL = 40_000, 10_000
"""Bytes of the output that are kept, from its start and its end."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended.

    Attributes:
        code: its exit code; None when it was killed at the deadline.
        output: what it printed on both streams, its middle left out when it is long.
    """

    code: int | None
    output: str


class Container(Protocol):
    """Runs commands of a toolchain."""

    def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        readable: Sequence[Path],
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Ran:
        """Run a command to its end.

        Args:
            command: the program and its arguments, looked up in `environment`'s PATH.
            folder: where it runs; the only place it can write to that remains.
            readable: further files and folders that it may read.
            environment: the whole of it; `TEMPORARY` in a value is filled in.
            timeout_s: wall-clock seconds until everything it started is killed.

        Raises:
            OSError: it could not be started.
        """
        ...


class Bubblewrap:
    """Runs commands in a container of their own.

    Args:
        program: the path of `bwrap`.
    """

    def __init__(self, program: str) -> None:
        self._program = program

    def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        readable: Sequence[Path] = (),
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Ran:
        """See `Container.run`. Inside, the folder is below `/work` and `/tmp` is empty."""
        inside = str(INSIDE / folder.name)
        arguments = [
            *(self._program, "--unshare-all", "--die-with-parent", "--new-session"),
            *("--cap-drop", "ALL", "--clearenv"),
            *(part for path in _SYSTEM for part in ("--ro-bind-try", path, path)),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *(part for path in readable for part in ("--ro-bind", str(path), str(path))),
            *("--bind", str(folder), inside, "--chdir", inside),
            *(p for pair in _placed(environment, "/tmp").items() for p in ("--setenv", *pair)),
        ]
        return _run([*arguments, "--", *_limited(command)], folder, {}, timeout_s)


class Unconfined:
    """Runs commands as this user, with everything this user may do. Only for who asks for it."""

    def run(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        readable: Sequence[Path] = (),
        environment: Mapping[str, str],
        timeout_s: float,
    ) -> Ran:
        """See `Container.run`."""
        with scratch_folder("astor-tmp-") as own:
            private = _placed({**environment, "TMPDIR": TEMPORARY}, str(own))
            return _run(_limited(command), folder, private, timeout_s)


def _placed(environment: Mapping[str, str], temporary: str) -> dict[str, str]:
    return {name: value.replace(TEMPORARY, temporary) for name, value in environment.items()}


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that may be left in any state: its removal never fails.

    What can't be removed, because someone still writes there, stays.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        if emptied(str(folder)):
            with suppress(OSError):
                folder.rmdir()


def find_bubblewrap() -> Bubblewrap | str:
    """Bubblewrap, if it is installed and works here; else why not, as a clause."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap (bwrap) isn't installed"
    return _tried(program)


@lru_cache(maxsize=4)
def _tried(program: str) -> Bubblewrap | str:
    found = Bubblewrap(program)
    with tempfile.TemporaryDirectory() as folder:
        try:
            ran = found.run(
                ["true"], folder=Path(folder), environment={"PATH": "/usr/bin:/bin"}, timeout_s=30
            )
        except OSError as error:
            return f"bubblewrap can't be started: {error.strerror}"
    if ran.code != 0:
        return f"bubblewrap doesn't work here: {' '.join(ran.output.split())[:120]}"
    return found


def _limited(command: Sequence[str]) -> list[str]:
    limits = f'ulimit -c 0; ulimit -f {2 * _LARGEST_KB}; exec "$@"'
    return ["/bin/sh", "-c", limits, "sh", *command]


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> Ran:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # What it started may outlive it; in a container nothing does.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Ran(code, b"".join(_kept(output)).decode("utf-8", "replace"))


def _kept(output: IO[bytes]) -> Iterator[bytes]:
    """A file's ends; its middle, which may be as long as a file may be, is never read."""
    size = output.seek(0, os.SEEK_END)
    output.seek(0)
    if size <= _HEAD + _TAIL:
        yield output.read(size)
        return
    yield output.read(_HEAD)
    yield f"\n... {size - _HEAD - _TAIL} bytes left out ...\n".encode()
    output.seek(size - _TAIL)
    yield output.read(_TAIL)
