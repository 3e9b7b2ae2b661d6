"""The pool's process and its zygotes killed at random instants, while jobs run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import astor_rl
from astor_rl.sandbox.api import CallJob, Limits, Outcome
from astor_rl.sandbox.pool import ProcessPool

Descendants = Callable[[int], set[int]]
_PATIENCE_S = 60.0
"""Only until a failure is told; on an idle machine everything is gone in milliseconds."""
_PF_KTHREAD = 0x00200000
_LIMITS = Limits(wall_s=600.0, cpu_s=600.0)
# Jobs of every kind and length, with processes, files and threads of their own.
_TRAINER = """
import sys
from astor_rl.sandbox.api import CallJob, Limits, SuiteJob, TestsJob
from astor_rl.sandbox.pool import ProcessPool

limits = Limits(wall_s=600, cpu_s=600, processes=3)
programs = [
    "x = 1",
    "open('f', 'w').write('x' * 100000)",
    "import os\\nfor _ in range(2): os.fork()\\nsum(range(10 ** 6))",
    "import os\\nif os.fork() == 0:\\n while True: pass\\nsum(range(10 ** 6))",
    "import threading, time\\nthreading.Thread(target=time.sleep, args=(9,)).start()",
    "print('x' * 200000)",
    "x = bytearray(50 << 20)",
    "import os\\nos._exit(1)",
]
add = "def add(a, b):\\n    return a + b\\n"
test = "from calc import add\\ndef test_a(): assert add(1, 2) == 3\\n"

def jobs():
    while True:
        for program in programs:
            yield CallJob(program, ("1",), limits=limits)
        yield SuiteJob({"calc.py": add}, {"calc_test.py": test}, limits=limits)
        yield TestsJob("calc", (add, add), test, limits=limits)

with ProcessPool(2) as pool:
    print("ready", flush=True)
    for _ in pool.map(jobs()):
        pass
"""


def _with_mark(mark: str) -> set[int]:
    """Living processes whose command line names something that nobody else's does."""
    return {pid for pid, command in _commands().items() if mark.encode() in command}


def _none_left(mark: str) -> bool:
    """Whether no process can be one of those with the mark.

    A process in the middle of an exec has no command line yet, and may have the mark in a moment:
    a launcher whose trainer was killed just then.
    """
    return all(command and mark.encode() not in command for command in _commands().values())


def _commands() -> dict[int, bytes]:
    """Command lines of living processes by their ids, without threads of the kernel."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _alive(int(entry.name)):
            with contextlib.suppress(OSError):
                found[int(entry.name)] = Path(entry.path, "cmdline").read_bytes()
    return found


def _alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and not int(fields[6]) & _PF_KTHREAD


def _wait_for(condition: Callable[[], object]) -> bool:
    """Whether it came true; asking once more may find it false again."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (true := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return true


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package: its path, in every zygote's command line, marks them as ours."""
    folder = tmp_path_factory.mktemp("copy")
    source = Path(astor_rl.__file__).parent
    shutil.copytree(source, folder / "astor_rl", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_nothing_outlives_a_killed_pool(copy: Path, tmp_path: Path, seed: int) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(copy), "TMPDIR": str(scratch)}
    trainer = subprocess.Popen(
        [sys.executable, "-c", _TRAINER, str(copy)], stdout=subprocess.PIPE, env=environment
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"ready\n"
    # From before the zygotes are up to the middle of any job.
    time.sleep(random.Random(seed).uniform(0.0, 1.2))
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    assert _wait_for(lambda: _none_left(str(copy))), _with_mark(str(copy))
    assert list(scratch.iterdir()) == []


def test_the_mark_is_seen(copy: Path) -> None:
    """The control: without the kill there is something to find."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    trainer = subprocess.Popen(
        [sys.executable, "-c", _TRAINER], stdout=subprocess.PIPE, env=environment
    )
    assert trainer.stdout is not None
    try:
        assert _wait_for(lambda: len(_with_mark(str(copy))) >= 4)  # two launchers, two zygotes
    finally:
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()
    assert _wait_for(lambda: _none_left(str(copy))), _with_mark(str(copy))


def _kill_zygotes(
    of: Callable[[], set[int]], dice: random.Random, done: threading.Event, outcomes: list[Outcome]
) -> int:
    """Kill zygotes or their launchers, never jobs: those ends would be theirs, rightly.

    A few outcomes after each other: a pool whose zygotes die again and again without a job done in
    between waits longer and longer before it starts the next.
    """
    killed, at = 0, 0
    while not done.wait(dice.uniform(0.0, 0.02)):
        zygotes = [pid for pid in sorted(of()) if _is_ready(_status(pid))]
        if not zygotes or len(outcomes) < at:
            continue
        zygote = dice.choice(zygotes)
        launcher = int(_status(zygote).get("PPid", "0"))
        with contextlib.suppress(ProcessLookupError):
            os.kill(launcher if dice.random() < 0.5 and launcher in of() else zygote, 9)
            killed += 1
            at = len(outcomes) + dice.randrange(8, 20)
    return killed


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _is_ready(status: dict[str, str]) -> bool:
    """Whether it is the first process of a pid namespace, behind its last wall.

    A pool whose zygotes die again and again while they start gives up, as it should.
    """
    return status.get("NSpid", "").split()[1:] == ["1"] and status.get("Seccomp") == "2"


@pytest.mark.parametrize("seed", range(2))
def test_no_outcome_is_lost_or_swapped_when_zygotes_die(
    descendants: Descendants, seed: int
) -> None:
    before = descendants(os.getpid())
    code = "def f(n):\n    for i in range(n % 7 * 20_000): pass\n    return n\n"
    jobs = [CallJob(code, (f"f({n})",), limits=_LIMITS) for n in range(150)]
    outcomes: list[Outcome] = []
    done = threading.Event()

    def ours() -> set[int]:
        return descendants(os.getpid()) - before

    with ProcessPool(2) as pool, ThreadPoolExecutor(1) as thread:
        killer = thread.submit(_kill_zygotes, ours, random.Random(seed), done, outcomes)
        try:
            for outcome in pool.map(jobs):
                outcomes.append(outcome)  # noqa: PERF402 - the killer looks at how many there are
        finally:
            done.set()
        assert killer.result() >= 3
        assert len(outcomes) == len(jobs)
        for number, outcome in enumerate(outcomes):
            if outcome.status == "ok":
                assert [result.value for result in outcome.calls] == [number]
            else:
                assert outcome.status == "infra_error", outcome
        assert sum(outcome.status == "ok" for outcome in outcomes) > len(jobs) / 2
        after = list(pool.map(jobs[:20]))
        assert [outcome.calls[0].value for outcome in after] == list(range(20))
    assert descendants(os.getpid()) <= before
