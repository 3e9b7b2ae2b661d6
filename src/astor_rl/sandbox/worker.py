"""The parent's end of one zygote: start it, hand it jobs, never wait for it longer than agreed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import secrets
import select
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from astor_rl.errors import DependencyError, SandboxError
from astor_rl.sandbox import protections
from astor_rl.sandbox.api import Limits
from astor_rl.sandbox.idle import LOOK_S, IdleWatch
from astor_rl.sandbox.inside import emptying
from astor_rl.sandbox.inside.protocol import KILL, LIMITS, REPORT, STARTED, WORK, Granted
from astor_rl.sandbox.users import ClaimedUser

HELLO_S: Final = 120.0
"""How long a zygote may take to start, seconds (imports on a loaded machine)."""
GRACE_S: Final = 10.0
"""How long past a job's deadline the zygote may be silent before it is killed, seconds."""
_SCRATCH_MB: Final = 32
_CHUNK: Final = 1 << 16
_ALONE_S: Final = 0.02
"""How long only the end of a job is waited for, before its pipes are served too, seconds."""
_READABLE: Final = (select.POLLIN,) * 3
_HEADER: Final = 1 << 16
"""What result messages may need beyond their values, bytes."""

# Own code by path, not by installation: the interpreter has the standard library only, and the
# package's __init__ must not run there.
_BOOTSTRAP: Final = """\
import sys, types
package = types.ModuleType("astor_rl")
package.__path__ = [sys.argv[1]]
sys.modules["astor_rl"] = package
from astor_rl.sandbox.inside import kernel
if kernel.fix_addresses():
    import os
    os.execv(sys.executable, sys.orig_argv)
from astor_rl.sandbox.inside import child, zygote
child.run(*zygote.main(sys.argv[2]))
"""


class ZygoteDied(Exception):  # noqa: N818 - an event, not a user's error
    """The zygote is gone or silent; the job it had may be run again on another."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a kind of zygote has loaded.

    Attributes:
        harnesses: modules of `inside` that run jobs.
        modules: further modules to import before the walls go up.
        keep_paths: leave site-packages importable for jobs.
        extra: the extra of astor-rl that installs `modules`.
    """

    harnesses: tuple[str, ...]
    modules: tuple[str, ...] = ()
    keep_paths: bool = False
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """How one child ended and what it sent.

    Attributes:
        status: as from wait(2).
        late: the wall-clock deadline killed it.
        asleep: it was ended because it only slept.
        flooded: `results` or `output` went over its limit, or empty.
        cpu_s, seconds: CPU and wall time.
        cpu_limit_s: the CPU time it was allowed.
        peak_kb: resident high-water mark, KiB.
        token: what an honest result message begins with.
    """

    status: int
    late: bool
    asleep: bool
    flooded: str
    cpu_s: float
    seconds: float
    peak_kb: int
    cpu_limit_s: float
    token: bytes
    results: bytes
    stdout: bytes
    stderr: bytes


@lru_cache(maxsize=1)
def interpreter() -> str:
    """The running interpreter's own binary: never a version manager's shim or a venv's link."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/exe")
    return os.path.realpath(sys.executable)


def package_paths(modules: Sequence[str], extra: str) -> list[str]:
    """Directories that modules outside the standard library are imported from.

    Raises:
        DependencyError: one is not installed.
    """
    paths: dict[str, None] = {}
    for name in modules:
        top = name.partition(".")[0]
        spec = None if top in sys.builtin_module_names else importlib.util.find_spec(top)
        if top in sys.stdlib_module_names:
            continue
        if spec is None:
            hint = f"; pip install 'astor-rl[{extra}]'" if extra else ""
            raise DependencyError(f"the sandbox preloads {name!r}, which isn't installed{hint}")
        places = spec.submodule_search_locations or [spec.origin or ""]
        paths.update(dict.fromkeys(str(Path(place).parent) for place in places))
    return list(paths)


@dataclass
class _Collector:
    """Bytes of one pipe, up to a limit."""

    limit: int
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, data: bytes) -> bool:
        """Keep what fits; False once the limit is passed."""
        self.parts.append(data[: max(0, self.limit - self.size)])
        self.size += len(data)
        return self.size <= self.limit

    def joined(self) -> bytes:
        return b"".join(self.parts)


class Zygote:
    """One zygote process and the socket to it. Not thread-safe: a worker owns it.

    Raises:
        SandboxError: it can't start, or lacks a protection that `allowed` doesn't name.
        ZygoteDied: it was killed while it started.
    """

    def __init__(self, profile: Profile, allowed: Sequence[str]) -> None:
        self.jobs = 0
        self.closed = False
        self._user = ClaimedUser()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Only needed, and only made, where the private root may be missing.
        self._scratch = tempfile.mkdtemp(prefix="astor-sandbox-") if "root" in allowed else ""
        try:
            with theirs:
                self._process = _start(profile, self._user.uid, self._scratch, theirs)
            hello = self._hear_hello()
            protections.check(hello["applied"], hello["missing"], allowed)
        except BaseException:
            self.close()
            raise
        self.applied: tuple[str, ...] = tuple(hello["applied"])
        self.missing: dict[str, str] = hello["missing"]
        self.tier = protections.tier(self.applied, self.missing)
        self._address_space = int(hello["address_space"])
        self._seccomp = "seccomp" in hello["applied"]

    def _hear_hello(self) -> dict[str, Any]:
        self._control.settimeout(HELLO_S)
        try:
            message = self._control.recv(1 << 16)
        except OSError as error:
            raise ZygoteDied(f"a sandbox process did not start within {HELLO_S:.0f} s") from error
        self._control.settimeout(None)
        if not message:
            raise ZygoteDied("a sandbox process ended while it started")
        hello: dict[str, Any] = json.loads(message)
        if "error" in hello:
            why = hello["error"].strip().splitlines()[-1]
            raise SandboxError(f"a sandbox process could not start: {why}")
        return hello

    def run(self, job: Mapping[str, Any], limits: Limits) -> Run:
        """Run one job to its end.

        Args:
            job: JSON-ready; `token` is added here.
            limits: enforced in the child, by the zygote and, as a last resort, here.

        Raises:
            ZygoteDied: no answer; this object is closed.
        """
        self.jobs += 1
        token = secrets.token_bytes(16)
        payload = json.dumps({**job, "token": token.hex()}).encode()
        pipes = [os.pipe() for _ in range(4)]
        ours = [pipes[0][1], pipes[1][0], pipes[2][0], pipes[3][0]]
        try:
            theirs = [pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1]]
            self._send(limits, bool(job["stdin"]), theirs)
            exchange = _Exchange(self._control, ours, payload, limits)
            report = exchange.finish()
        except (OSError, ZygoteDied) as error:
            self.close()
            raise ZygoteDied(str(error)) from error
        finally:
            for descriptor in ours:
                if descriptor >= 0:
                    os.close(descriptor)
        status, late, cpu_s, peak_kb, seconds, clean = report
        if not clean:  # the job left a scratch directory that can't be emptied
            self.close()
        results, stdout, stderr = (c.joined() for c in exchange.collectors)
        return Run(
            status=status,
            late=late,
            asleep=exchange.asleep,
            flooded=exchange.flooded,
            cpu_s=cpu_s,
            seconds=seconds,
            peak_kb=peak_kb,
            cpu_limit_s=limits.cpu_s,
            token=token,
            results=results,
            stdout=stdout,
            stderr=stderr,
        )

    def _send(self, limits: Limits, stdin: bool, descriptors: list[int]) -> None:
        message = _told(limits, self._address_space, self._seccomp, stdin)
        try:
            socket.send_fds(self._control, [message], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def abort(self) -> None:
        """From another thread: make the zygote and its job end now. `close` must follow."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the zygote and everything below it, and wait until they are gone. Idempotent."""
        self.closed = True
        self._control.close()
        process: subprocess.Popen[bytes] | None = getattr(self, "_process", None)
        if process is not None and process.returncode is None:
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._user.release()
        scratch, self._scratch = self._scratch, ""
        if scratch and emptying.emptied(scratch):
            with contextlib.suppress(OSError):  # the folder above is not ours
                os.rmdir(scratch)


@lru_cache(maxsize=64)
def _told(limits: Limits, address_space: int, seccomp: bool, stdin: bool) -> bytes:
    """Limits as a zygote takes them."""
    granted = Granted(
        wall_s=limits.wall_s,
        cpu_s=max(1, math.ceil(limits.cpu_s)),
        memory=address_space + (limits.memory_mb << 20),
        file=limits.file_mb << 20,
        open_files=limits.open_files,
        processes=limits.processes,
        output=limits.output_kb << 10,
        seccomp=seccomp,
        stdin=stdin,
    )
    return LIMITS.pack(*granted)


class _Exchange:
    """Feeds a job and gathers its pipes until the zygote reports its end."""

    def __init__(
        self, control: socket.socket, ours: list[int], payload: bytes, limits: Limits
    ) -> None:
        self.flooded = ""
        self.asleep = False
        self._idle: IdleWatch | None = None
        self._alone = limits.processes == 0  # else others may work while the first one waits
        limit = limits.output_kb << 10
        self.collectors = (_Collector(limit + _HEADER), _Collector(limit), _Collector(limit))
        self._control = control
        self._ours = ours
        self._payload = memoryview(payload)
        self._deadline = time.monotonic() + limits.wall_s + GRACE_S
        self._names = ("results", "output", "output")
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        os.set_blocking(ours[0], False)

    def finish(self) -> tuple[Any, ...]:
        """Serve the pipes until they are at their end and the report is here."""
        report: tuple[Any, ...] | None = None
        self._feed()
        # Most jobs fit into their pipes and end at once: one wake-up, for the report.
        if self._ours[0] < 0:
            self._poll.poll(_ALONE_S * 1000)
        self._watch_pipes()
        while report is None or any(descriptor >= 0 for descriptor in self._ours[1:]):
            left = self._deadline - time.monotonic()
            events = self._poll.poll(max(0.0, min(left, LOOK_S)) * 1000)
            if not events and left <= 0:
                raise ZygoteDied("silent past its deadline")
            self._look(quiet=not events)
            for descriptor, event in events:
                if descriptor == self._control.fileno():
                    report = self._hear() or report
                elif descriptor == self._ours[0]:
                    self._feed()
                elif descriptor in self._ours:
                    self._gather(self._ours.index(descriptor), event)
        return report

    def _watch_pipes(self) -> None:
        for descriptor, event in zip(self._ours, (select.POLLOUT, *_READABLE), strict=True):
            if descriptor >= 0:
                self._poll.register(descriptor, event)

    def _look(self, *, quiet: bool) -> None:
        if self._idle is None or self.asleep:
            return
        if not quiet:  # it may have been waiting for us
            self._idle.restart()
        elif self._idle.asleep():
            self.asleep = True
            self._control.send(KILL)

    def _hear(self) -> tuple[Any, ...] | None:
        """The report, or None for the word that the job has started."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 1 << 10, 1)
        if not message:
            raise ZygoteDied("exited")
        for descriptor in descriptors:
            watch = IdleWatch(descriptor)
            self._idle = watch if self._alone else None
        if message == STARTED:
            return None
        self._idle = None
        self._poll.unregister(self._control)
        return REPORT.unpack(message)

    def _drop(self, index: int) -> None:
        with contextlib.suppress(KeyError):  # fed before anything was watched
            self._poll.unregister(self._ours[index])
        os.close(self._ours[index])
        self._ours[index] = -1

    def _feed(self) -> None:
        try:
            self._payload = self._payload[os.write(self._ours[0], self._payload) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._payload = memoryview(b"")
        if not self._payload:
            self._drop(0)

    def _gather(self, index: int, event: int) -> None:
        data = os.read(self._ours[index], _CHUNK) if event & select.POLLIN else b""
        if data and not self.collectors[index - 1].add(data) and not self.flooded:
            self.flooded = self._names[index - 1]
            self._control.send(KILL)
        # Without writers, less than was asked for is the last.
        if not data or (event & select.POLLHUP and len(data) < _CHUNK):
            self._drop(index)


def _start(
    profile: Profile, uid: int, scratch: str, control: socket.socket
) -> subprocess.Popen[bytes]:
    paths = package_paths(profile.modules, profile.extra)
    # A virtual environment's platform directory holds no library: ask for the base's.
    base = {"platbase": sys.base_exec_prefix}
    stdlib = [sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")]
    keep = paths if profile.keep_paths else []
    config = {
        "control": control.fileno(),
        "read": [os.path.realpath(path) for path in dict.fromkeys((*stdlib, *keep))],
        "hide": [] if keep else [os.path.join(path, "site-packages") for path in stdlib],
        "scratch": scratch,
        "uid": uid,
        "scratch_mb": _SCRATCH_MB,
        "paths": paths,
        "keep_paths": profile.keep_paths,
        "modules": profile.modules,
        "harnesses": profile.harnesses,
    }
    package = str(Path(__file__).resolve().parents[1])
    # `-I` would ignore PYTHONHASHSEED with the rest of the environment; the environment is all
    # ours, so `-P -s` isolates as much. `-E` is the part of `-I` that must stay away.
    command = [interpreter(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", _BOOTSTRAP]
    return subprocess.Popen(
        [*command, package, json.dumps(config)],
        env=_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=True,
        pass_fds=[control.fileno()],
    )


def _environment() -> dict[str, str]:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": WORK,
        "TMPDIR": WORK,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Else each thread reserves 64 MiB of the address space that is limited.
        "MALLOC_ARENA_MAX": "2",
    }
    # A relocatable build may find its libpython only so.
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries
    return environment
