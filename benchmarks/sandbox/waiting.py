"""What a trainer waits for: answers, deadlines, its own event loop; and what the pool holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Final

from astor_rl.sandbox.api import CallJob, Limits, Outcome, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from benchmarks.common import descendants, percentile
from benchmarks.sandbox.jobs import Case
from benchmarks.sandbox.rounds import latency

_TICK_S: Final = 0.001
_DEADLINE_S: Final = 0.1
_HANGS: Final = {
    "loop": "while True: pass",
    "swallow": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "sleep": "import time\nwhile True: time.sleep(60)",
    "threads": (
        "import threading, time\n"
        "def work():\n    while True: sum(range(999))\n"
        "for _ in range(4): threading.Thread(target=work).start()\n"
        "time.sleep(60)"
    ),
    "print": "while True: print('x' * 50)",
}
"""Programs that don't end by themselves. `print` floods only slowly enough with its own limit."""


def latencies(pool: ProcessPool, cases: Sequence[Case], clients: int) -> dict[str, Any]:
    """`submit` in a closed loop: as many clients as given, each asks when it has its answer."""

    async def client(mine: Sequence[Case]) -> list[float]:
        found = []
        for case in mine:
            start = time.perf_counter()
            outcome = await pool.submit(case.job())
            found.append(1e3 * (time.perf_counter() - start))
            if not case.passed(outcome):
                raise RuntimeError(f"{case.name}: {outcome.status} {outcome.message}")
        return found

    async def all_clients() -> list[float]:
        shares = [cases[n::clients] for n in range(clients)]
        return [ms for found in await asyncio.gather(*map(client, shares)) for ms in found]

    return {"clients": clients, **latency(asyncio.run(all_clients()))}


def overruns(pool: ProcessPool, count: int) -> dict[str, float]:
    """Milliseconds from a job's wall-clock deadline to its outcome, queue and start included."""
    limits = Limits(wall_s=_DEADLINE_S, cpu_s=60.0, output_kb=1 << 16)
    programs = list(_HANGS.values())

    async def client(mine: int) -> list[float]:
        found = []
        for turn in range(mine):
            job = CallJob(programs[turn % len(programs)], ("1",), limits=limits)
            start = time.perf_counter()
            outcome = await pool.submit(job)
            found.append(1e3 * (time.perf_counter() - start - _DEADLINE_S))
            if outcome.status != "timeout":
                raise RuntimeError(f"a program without an end: {outcome.status} {outcome.message}")
        return found

    async def all_clients() -> list[float]:
        shares = [client(count // pool.workers) for _ in range(pool.workers)]
        return [ms for found in await asyncio.gather(*shares) for ms in found]

    found = asyncio.run(all_clients())
    return {"n": len(found), "max": max(found), **latency(found)}


def event_loop(pool: ProcessPool, case: Case, jobs: int) -> dict[str, float]:
    """How late a 1 ms timer of the loop came while jobs ran, one of ten hanging; milliseconds.

    `idle_max` is the same loop with nothing to do, for as long: the machine's own share.
    """
    hang = CallJob(_HANGS["loop"], ("1",), limits=Limits(wall_s=0.5, cpu_s=60.0))
    mixed = [hang if n % 10 == 0 else case.job() for n in range(jobs)]

    async def run() -> tuple[list[float], list[float]]:
        start = time.perf_counter()
        busy = await _lateness(asyncio.gather(*map(pool.submit, mixed)))
        return busy, await _lateness(asyncio.sleep(time.perf_counter() - start))

    busy, idle = asyncio.run(run())
    return {
        "jobs": jobs,
        "max": max(busy),
        "p99": percentile(busy, 99),
        "idle_max": max(idle),
        "idle_p99": percentile(idle, 99),
    }


async def _lateness(until: Awaitable[Any]) -> list[float]:
    task = asyncio.ensure_future(until)
    found = []
    while not task.done():
        start = time.perf_counter()
        await asyncio.sleep(_TICK_S)
        found.append(1e3 * (time.perf_counter() - start - _TICK_S))
    await task
    return found


def memory(case: Case, test: TestsJob) -> dict[str, Any]:
    """MiB that one zygote of each profile keeps to itself, and shares with files."""
    return {"calls": _held(case.job()), "tests": _held(test)}


def _held(job: CallJob | TestsJob) -> dict[str, float]:
    me = Path("/proc/self").resolve().name
    before = set(descendants(int(me)))
    with ProcessPool(1) as pool:
        outcomes: list[Outcome] = list(pool.map([job, job]))
        if any(outcome.status != "ok" for outcome in outcomes):
            raise RuntimeError(f"a plain job: {outcomes[0].status} {outcomes[0].message}")
        found = [_resident(pid) for pid in descendants(int(me)) if pid not in before]
    own, shared = (sum(sizes) for sizes in zip(*found, strict=True))
    return {"processes": len(found), "private_mib": own, "shared_mib": shared}


def _resident(pid: int) -> tuple[float, float]:
    """Anonymous and file-backed resident memory."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    anonymous, files = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return anonymous, files
