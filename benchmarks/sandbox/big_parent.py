"""Whether a big trainer pays more for a job than a small one: two processes, asked in turns.

As a program (`python -m benchmarks.sandbox.big_parent BYTES`): holds that much touched memory,
then answers each line on standard input with a JSON list of the milliseconds of some jobs and of
the start of a fresh pool.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from typing import Any, Final

from astor_rl.sandbox.pool import ProcessPool
from benchmarks.common import ROOT, available_memory, differences, summary
from benchmarks.sandbox.jobs import trivial

BIG: Final = 4 << 30
_SPARE: Final = 2 << 30
_PAGE: Final = 4096
_JOBS: Final = 40


def compare(rounds: int, size: int = BIG) -> dict[str, Any]:
    """Latency of trivial jobs, one at a time, in a parent of `size` bytes and in a small one."""
    if available_memory() < size + _SPARE:
        free = available_memory() >> 20
        return {"skipped": f"{free} MiB of memory free; needs {(size + _SPARE) >> 20} MiB"}
    with _Parent(0) as small, _Parent(size) as big:
        pairs = [(small.measure(), big.measure()) for _ in range(rounds)]
    starts = [(a[0], b[0]) for a, b in pairs]
    jobs = [(summary(a[1])["median"], summary(b[1])["median"]) for a, b in pairs]
    return {
        "big_mib": size >> 20,
        "small_ms": summary([a for a, _ in jobs]),
        "big_ms": summary([b for _, b in jobs]),
        "difference_ms": differences([b for _, b in jobs], [a for a, _ in jobs]),
        "start_small_ms": summary([a for a, _ in starts]),
        "start_big_ms": summary([b for _, b in starts]),
    }


class _Parent:
    def __init__(self, size: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sandbox.big_parent", str(size)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self) -> tuple[float, list[float]]:
        """Milliseconds until a fresh pool's first answer, and of the jobs that follow."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("\n")
        stdin.flush()
        first, *rest = json.loads(stdout.readline())
        return first, rest

    def __enter__(self) -> _Parent:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.communicate()


def main() -> None:
    """Hold memory and answer until standard input ends."""
    held = bytearray(int(sys.argv[1]))
    held[::_PAGE] = b"x" * len(held[::_PAGE])
    job = trivial().job()
    for _ in sys.stdin:
        with ProcessPool(1) as pool:
            times = [time.perf_counter()]
            for _ in range(_JOBS + 1):
                next(iter(pool.map([job])))
                times.append(time.perf_counter())
        print(json.dumps([1e3 * (b - a) for a, b in itertools.pairwise(times)]), flush=True)


if __name__ == "__main__":
    main()
