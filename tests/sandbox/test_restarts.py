"""A pool whose zygotes fail: how often it tries, what it says, how it comes back."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from itertools import pairwise

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox import probe, worker
from astor_rl.sandbox.api import CallJob, Limits, Outcome
from astor_rl.sandbox.pool import ProcessPool

JOB = CallJob("", ("1",), limits=Limits(wall_s=60, cpu_s=20))
ENDLESS = CallJob("while True: pass", (), limits=Limits(wall_s=600, cpu_s=600))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Zygotes end as they start; when each was started."""
    false = shutil.which("false")
    assert false
    probe.trial()  # once a process; it starts one itself
    times: list[float] = []

    def interpreter() -> str:
        times.append(time.monotonic())
        return false

    monkeypatch.setattr(worker, "interpreter", interpreter)
    return times


def test_what_cannot_be_started_is_one_error_after_a_few_tries(starts: list[float]) -> None:
    with ProcessPool(1) as pool:
        says = "a sandbox process failed to start 5 times in a row: a sandbox process ended while"
        with pytest.raises(SandboxError, match=says):
            next(pool.map([JOB]))
        assert len(starts) == 5
        gaps = [after - before for before, after in pairwise(starts)]
        assert all(gap >= pause for gap, pause in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True))
        with pytest.raises(SandboxError, match="6 times in a row"):
            next(pool.map([JOB]))
        assert len(starts) == 6
        assert starts[5] - starts[4] >= 1.6


def test_a_pool_recovers_when_its_zygotes_start_again(
    starts: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProcessPool(1) as pool:
        with pytest.raises(SandboxError, match="5 times in a row"):
            next(pool.map([JOB]))
        monkeypatch.undo()
        assert next(pool.map([JOB])).calls[0].value == 1


def test_close_does_not_wait_for_the_next_try(starts: list[float]) -> None:
    pool = ProcessPool(1)
    results: list[object] = []

    def wait() -> None:
        try:
            results.append(next(pool.map([JOB])))
        except SandboxError as error:
            results.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    while len(starts) < 3:
        time.sleep(0.01)
    pool.close()
    thread.join()
    assert results == ["the sandbox pool was closed"]
    assert len(starts) < 5


def test_close_ends_jobs_whose_zygote_is_just_starting() -> None:
    for pause in (0.0, 0.02, 0.05, 0.1):
        pool = ProcessPool(1)

        async def scenario(
            pool: ProcessPool = pool, pause: float = pause
        ) -> list[Outcome | BaseException]:
            tasks = [asyncio.ensure_future(pool.submit(ENDLESS)) for _ in range(3)]
            await asyncio.sleep(pause)
            await asyncio.to_thread(pool.close)
            return await asyncio.gather(*tasks, return_exceptions=True)

        assert all("closed" in str(error) for error in asyncio.run(scenario()))


@pytest.mark.parametrize(
    ("code", "limits", "limit", "ended_by"),
    [
        ("while True: pass", {"wall_s": 0.3}, "wall_s", 9),
        ("while True: pass", {"cpu_s": 1}, "cpu_s", None),
        ("x = [0] * 10 ** 10", {}, "memory_mb", 0),
        ("while True: print('x' * 1000)", {}, "output_kb", 9),
        ("x = 'y' * 300_000", {}, "output_kb", None),
        ("import os; os._exit(3)", {}, "", 0),
        ("import os; os.abort()", {}, "", 6),
        ("import time; time.sleep(600)", {}, "", 9),
        ("def f(:", {}, "", 0),
        ("", {}, "", 0),
    ],
)
def test_details_say_what_ended_a_job(
    pool: ProcessPool, code: str, limits: dict[str, float], limit: str, ended_by: int | None
) -> None:
    said = "import sys\nprint('last words', file=sys.stderr, flush=True)\n"
    given = Limits(**{"wall_s": 60.0, "cpu_s": 20.0, **limits})  # type: ignore[arg-type]
    (outcome,) = pool.map([CallJob(said + code, ("x",), limits=given)])
    assert outcome.limit == limit, outcome
    assert ended_by is None or outcome.signal == ended_by, outcome
    assert outcome.seconds > 0
    assert outcome.peak_memory_mb > 1
    assert outcome.tier == "full"
    if code != "def f(:":  # it doesn't run at all
        assert outcome.stderr == "last words\n"
