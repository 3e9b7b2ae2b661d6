"""What every benchmark needs: who measured what on which machine, and numbers with their spread."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
"""The checkout."""
RESULTS: Final = ROOT / "benchmarks" / "results"
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_DIGITS: Final = 4

Summary = dict[str, float]
"""`median`, `q1`, `q3` (quartiles), `n` (number of samples)."""


def summary(values: Sequence[float]) -> Summary:
    """The median of at least one value, with its quartiles."""
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "q1": percentile(ordered, 25),
        "q3": percentile(ordered, 75),
        "n": len(ordered),
    }


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least `q` percent of them don't exceed; q in [0, 100]."""
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * q // 100) - 1)]


def ratios(over: Sequence[float], under: Sequence[float]) -> Summary:
    """Summary of paired quotients."""
    return summary([a / b for a, b in zip(over, under, strict=True)])


def differences(left: Sequence[float], right: Sequence[float]) -> Summary:
    """Summary of paired differences."""
    return summary([a - b for a, b in zip(left, right, strict=True)])


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel counts of a process, or of several together.

    Attributes:
        user_s, system_s: its own CPU time, seconds (to 10 ms).
        reaped_user_s, reaped_system_s: CPU time of the children that it has waited for.
        faults, reaped_faults: minor page faults, of the same two.
    """

    user_s: float = 0.0
    system_s: float = 0.0
    reaped_user_s: float = 0.0
    reaped_system_s: float = 0.0
    faults: int = 0
    reaped_faults: int = 0

    def __add__(self, other: Self) -> Self:
        return self._combined(other, 1)

    def __sub__(self, other: Self) -> Self:
        return self._combined(other, -1)

    def _combined(self, other: Self, sign: int) -> Self:
        names = [field.name for field in fields(self)]
        return type(self)(*(getattr(self, n) + sign * getattr(other, n) for n in names))

    @property
    def cpu_s(self) -> float:
        """All CPU time."""
        return self.user_s + self.system_s + self.reaped_user_s + self.reaped_system_s


def usage(pids: Sequence[int]) -> Usage:
    """The sum over processes; those that are gone count nothing."""
    total = Usage()
    for pid in pids:
        with suppress(OSError):
            _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
            # From field 3 of proc_pid_stat(5) on: minflt cminflt majflt cmajflt utime stime ...
            faults, reaped_faults, _, _, *ticks = map(int, rest.split()[7:15])
            user, system, reaped_user, reaped_system = (tick * _TICK_S for tick in ticks)
            total += Usage(user, system, reaped_user, reaped_system, faults, reaped_faults)
    return total


def descendants(pid: int) -> list[int]:
    """Every living process below one, zombies included."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = list(_children(waiting.pop()))
        found += children
        waiting += children
    return found


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):  # it ended in the meantime
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from map(int, task.read_text().split())


def tree_cpu_s() -> float:
    """CPU seconds of this process and everything below it, the reaped included."""
    me = os.getpid()
    return usage([me, *descendants(me)]).cpu_s


def available_memory() -> int:
    """Bytes that can be allocated without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return 0


def machine() -> dict[str, Any]:
    """Hardware, kernel and load; nothing that names the host."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "load_1min_at_start": os.getloadavg()[0],
        "root": os.geteuid() == 0,
    }


def versions(*distributions: str) -> dict[str, str | None]:
    """Python, this checkout's commit, and installed distributions (None: not installed)."""
    found: dict[str, str | None] = {"python": platform.python_version(), "commit": _commit()}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def publish(result: Mapping[str, Any], path: Path) -> None:
    """Write the result to a file, readable, and print it as the last line, compact."""
    rounded = _rounded(dict(result))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded, indent=1) + "\n")
    print(json.dumps(rounded), flush=True)


def tell(text: str) -> None:
    """Progress, for people: not on standard output, whose last line is the result."""
    print(text, file=sys.stderr, flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
