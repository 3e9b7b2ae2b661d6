"""The remote pool is the local pool: same outcomes, same order, same manners."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from dataclasses import replace
from typing import Any

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox import codec
from astor_rl.sandbox.api import CallJob, Job, Limits, Outcome, SuiteJob, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.remote.client import RemotePool

ROOM = Limits(wall_s=60, cpu_s=20)
SHORT = Limits(wall_s=0.3, cpu_s=20)
TESTS = "from m import f\ndef test_one(): assert f(1) == 2\ndef test_two(): assert f(0) == 1"
MUTANTS = ("def f(x):\n    return x + 1", "def f(x):\n    return x + 2", "def f(x): return 1")

SPRAY = """
import os
def spray():
    for n in range(3, 1024):
        try: os.write(n, b"ok" * 50)
        except OSError: pass
"""

JOBS: dict[str, Job] = {
    "values": CallJob(
        "import decimal\ndef g(): yield 1",
        (
            "[1, 1.0, True, None, (2,), {3}, frozenset({4}), {5: b'6'}, range(7), 8j]",
            "float('nan'), -0.0, 10 ** 5000, '\\ud800', b'\\xff'",
            "1 / 0", "f(", "g()", "decimal.Decimal(1)", "[[[[[]]]]]",
        ),
        limits=ROOM,
    ),
    "prints": CallJob("import sys\nprint(input(), '\\x00é')\nprint('e', file=sys.stderr)", ("1",),
                      stdin="line\nmore", limits=ROOM),
    "unstable": CallJob("import random", ("random.random()", "2"), repeat=2, limits=ROOM),
    "syntax error": CallJob("def f(:", ("1",), limits=ROOM),
    "wall": CallJob("while True: pass", (), limits=SHORT),
    "cpu": CallJob("while True: pass", (), limits=replace(ROOM, cpu_s=1)),
    "memory": CallJob("x = [0] * 10 ** 10", (), limits=ROOM),
    "output": CallJob("while True: print('x' * 1000)", (), limits=ROOM),
    "results": CallJob("", ("'x' * 300_000",), limits=ROOM),
    "exit": CallJob("import os; os._exit(0)", ("1",), limits=ROOM),
    "signal": CallJob("import os; os.abort()", ("1",), limits=ROOM),
    "malformed": CallJob(SPRAY, ("spray()",), limits=ROOM),
    "tests": TestsJob("m", MUTANTS, TESTS, coverage_of=(0,), support={"h.py": "y = 1"},
                      per_target_s=20, limits=ROOM),
    "tests that don't parse": TestsJob("m", MUTANTS, "def", per_target_s=20, limits=ROOM),
    "suite": SuiteJob({"s.py": "def f(): return 1"},
                      {"s_test.py": "from s import f\ndef test_f(): assert f() == 1\n"
                                    "def test_g(): assert f() == 2"}, ROOM),
    "suite that exits": SuiteJob({"s.py": "import os; os._exit(0)"},
                                 {"s_test.py": "import s\ndef test_f(): pass"}, ROOM),
}  # fmt: skip

STATUSES = {
    "syntax error": "error", "wall": "timeout", "cpu": "timeout", "memory": "memory",
    "output": "output_limit", "results": "output_limit", "exit": "crash", "signal": "crash",
    "malformed": "malformed", "tests that don't parse": "error", "suite that exits": "crash",
}  # fmt: skip


def comparable(outcome: Outcome) -> Any:
    """Everything but what a clock or the kernel's memory accounting says; values exactly."""
    calls = [(c.kind, codec.encode(c.value, 1 << 30), c.error, c.message) for c in outcome.calls]
    plain = replace(outcome, seconds=0.0, peak_memory_mb=0.0, calls=(), stdout="", stderr="")
    # How much a job printed before it was ended is chance.
    printed = (outcome.stdout, outcome.stderr) if outcome.status == "ok" else None
    return plain, calls, printed


@pytest.mark.parametrize("name", JOBS)
def test_outcomes_are_those_of_the_local_pool(
    name: str, pool: ProcessPool, remote: RemotePool
) -> None:
    (local,) = pool.map([JOBS[name]])
    (distant,) = remote.map([JOBS[name]])
    assert local.status == STATUSES.get(name, "ok"), local
    assert comparable(distant) == comparable(local)
    assert distant.seconds > 0
    assert distant.peak_memory_mb > 1
    assert distant.tier == local.tier == "full"


def test_order_and_bounded_read_ahead(remote: RemotePool) -> None:
    taken = []

    def jobs() -> Any:
        for i in range(60):
            taken.append(i)
            yield CallJob("", (str(i),), limits=ROOM)

    results = remote.map(jobs())
    assert next(results).calls[0].value == 0
    assert len(taken) < 15
    assert [outcome.calls[0].value for outcome in results] == list(range(1, 60))


def test_threads_and_event_loops_share_a_pool(remote: RemotePool) -> None:
    results: dict[int, list[object]] = {}

    async def many(base: int) -> list[Outcome]:
        jobs = [CallJob("", (str(base + i),), limits=ROOM) for i in range(10)]
        return await asyncio.gather(*map(remote.submit, jobs))

    def worker(base: int) -> None:
        results[base] = [outcome.calls[0].value for outcome in asyncio.run(many(base))]

    threads = [threading.Thread(target=worker, args=(100 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {100 * i: list(range(100 * i, 100 * i + 10)) for i in range(3)}


def test_a_cancelled_submission_does_not_disturb_others(remote: RemotePool) -> None:
    async def scenario() -> Outcome:
        slow = asyncio.ensure_future(remote.submit(JOBS["wall"]))
        await asyncio.sleep(0.05)
        slow.cancel()
        return await remote.submit(CallJob("", ("5",), limits=ROOM))

    assert asyncio.run(scenario()).calls[0].value == 5


def test_a_job_that_is_too_large_is_no_verdict(remote: RemotePool) -> None:
    (outcome,) = remote.map([CallJob("#" * (17 << 20), ())])
    assert outcome.status == "infra_error"
    assert "the job has" in outcome.message


def test_close_ends_waiting_and_running_jobs(server: Any, token: str) -> None:
    pool = RemotePool([server.url], token=token)
    endless = CallJob("while True: pass", (), limits=Limits(wall_s=2, cpu_s=20))

    async def scenario() -> list[Outcome | BaseException]:
        tasks = [asyncio.ensure_future(pool.submit(endless)) for _ in range(6)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pool.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    for result in asyncio.run(scenario()):
        assert isinstance(result, SandboxError)
        assert "the sandbox pool was closed" in str(result)
    pool.close()
    with pytest.raises(SandboxError, match="closed"):
        next(pool.map([CallJob("", ())]))


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def test_a_forgotten_pool_is_collected(server: Any, token: str) -> None:
    gc.collect()
    before = threads_named("sandbox-remote")
    pool = RemotePool([server.url], token=token)
    list(pool.map([CallJob("", (), limits=ROOM)]))
    assert threads_named("sandbox-remote") == before + 1
    del pool
    gc.collect()
    assert threads_named("sandbox-remote") == before


def test_nothing_is_left_open_after_200_jobs(server: Any, token: str) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with RemotePool([server.url], token=token) as pool:
        jobs = [CallJob("", ("1",), limits=ROOM)] * 200
        assert all(outcome.calls[0].value == 1 for outcome in pool.map(jobs))
        # A connection for each of the four pullers and one for health, and the event loop's own.
        assert len(os.listdir("/proc/self/fd")) <= before + 5 + 3
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"urls": []}, "needs at least one server's url"),
        ({"urls": ["http://127.0.0.1:1"] * 2}, "'http://127.0.0.1:1' is there twice"),
        ({"urls": ["127.0.0.1:1"]}, "sandbox url '127.0.0.1:1' must be https://host:port"),
        ({"urls": ["http://198.51.100.1:1"]}, "is another machine's and not encrypted"),
        ({"urls": ["https://a:1"], "ca_file": "/gone"}, "CA file '/gone' can't be used"),
        ({"urls": ["https://a:1"], "allow_missing": ["nets"]}, "allow_missing names 'nets'"),
    ],
)
def test_bad_arguments_name_themselves(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SandboxError, match=says):
        RemotePool(**given)
