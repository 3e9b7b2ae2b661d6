"""Many jobs, honest and hostile, through one pool: right verdicts, nothing left, flat memory.

    python -m benchmarks.soak_sandbox [--jobs 20000] [--workers N] [--hostile 0.3] [--seed 0]
        [--output FILE]

The last line is JSON. The exit code is 1 if a verdict was wrong or something was left behind.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from astor_rl.sandbox.api import CallJob, Job, Limits, Outcome, SuiteJob, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from benchmarks.attacks import catalogue, traces
from benchmarks.common import RESULTS, descendants, machine, publish, tell, versions

_LIMITS: Final = Limits(wall_s=120.0, cpu_s=60.0)
_SHOWN: Final = 20
_ADD: Final = "def add(a, b):\n    return a + b\n"
_SUB: Final = "def add(a, b):\n    return a - b\n"
_TEST: Final = "from calc import add\ndef test_a():\n    assert add({a}, {b}) == {c}\n"

Check = Callable[[Outcome], list[str]]
"""What is wrong with an outcome, in words."""


@dataclass
class _Soak:
    """One run: makes the jobs, checks the outcomes in their order, keeps the figures."""

    jobs: int
    hostile: float
    dice: random.Random
    expected: deque[Check] = field(default_factory=deque)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    parent_kib: list[int] = field(default_factory=list)
    zygote_kib: list[int] = field(default_factory=list)

    def stream(self) -> Iterator[Job]:
        """The jobs; what each must come to is queued in the same order."""
        attacks = [a for a in catalogue.attacks() if not a.victim]
        for _ in range(self.jobs):
            if self.dice.random() < self.hostile:
                job, check = _hostile(self.dice.choice(attacks))
            else:
                job, check = _honest(self.dice)
            self.expected.append(check)
            yield job

    def run(self, pool: ProcessPool) -> None:
        """Every job, with a look at the memory at each quarter."""
        quarter = max(1, self.jobs // 4)
        for done, outcome in enumerate(pool.map(self.stream()), 1):
            self.counts[outcome.status] += 1
            for wrong in self.expected.popleft()(outcome):
                self.wrong.append(wrong)
                if len(self.wrong) <= _SHOWN:
                    tell(f"job {done}: {wrong[:2000]}")
            if done % quarter == 0:
                self.look()
                tell(f"{done} jobs, {len(self.wrong)} wrong, {self.counts}")

    def look(self) -> None:
        """Note the resident memory of this process and of the largest zygote."""
        self.parent_kib.append(traces.memory_kib(kind="VmRSS"))
        self.zygote_kib.append(max(map(traces.memory_kib, traces.zygotes()), default=0))


def _honest(dice: random.Random) -> tuple[Job, Check]:
    a, b = dice.randrange(1, 10**9), dice.randrange(1, 10**9)
    match dice.randrange(10):
        case 0:
            job: Job = TestsJob(
                "calc", (_ADD, _SUB, _ADD), _TEST.format(a=a, b=b, c=a + b),
                per_target_s=60.0, limits=_LIMITS,
            )  # fmt: skip
            return job, _as_word(catalogue.is_kill, True, "a kill")
        case 1:
            right = dice.random() < 0.5
            tests = {"calc_test.py": _TEST.format(a=a, b=b, c=a + b)}
            job = SuiteJob({"calc.py": _ADD if right else _SUB}, tests, limits=_LIMITS)
            return job, _as_word(catalogue.is_pass, right, "a pass")
        case _:
            code = f"import os\nopen('f', 'w').write('x' * {a % 1000})\n{_ADD}"
            job = CallJob(code, (f"add({a}, {b})", "os.listdir('.')", "1 / 0"), limits=_LIMITS)
            return job, _values_are([a + b, ["f"], "!ZeroDivisionError"])


def _as_word(judge: Callable[[Outcome], bool], right: bool, what: str) -> Check:
    return lambda outcome: [] if judge(outcome) == right else [f"not as {what} must be: {outcome}"]


def _values_are(values: list[Any]) -> Check:
    def check(outcome: Outcome) -> list[str]:
        got = [catalogue.shown(result) for result in outcome.calls]
        return [] if got == values else [f"{got}, not {values}: {outcome}"]

    return check


def _hostile(attack: catalogue.Attack) -> tuple[Job, Check]:
    def check(outcome: Outcome) -> list[str]:
        if catalogue.too_early(attack, outcome):
            return []
        return [f"{attack.name}: {p}" for p in catalogue.problems(attack, outcome)]

    return catalogue.job_of(attack), check


def _orphans(users: set[int]) -> int:
    return len(descendants(os.getpid())) + len(traces.processes_of(users))


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="A soak of the sandbox.")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--hostile", type=float, default=0.3, help="share of attacks, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "soak_sandbox.json")
    options = parser.parse_args(arguments)
    soak = _Soak(options.jobs, options.hostile, random.Random(options.seed))
    here = machine()
    # Outside of the pool: inside, each worker's zygotes start with the first job that needs them.
    descriptors = traces.open_descriptors()
    with ProcessPool(options.workers) as pool:
        for _ in range(options.workers):
            catalogue.honest(pool)
        soak.look()
        started = time.monotonic()
        soak.run(pool)
        seconds = time.monotonic() - started
        users = traces.users()
        strangers = len(traces.processes_of(users) - set(descendants(os.getpid())))
    descriptors_after = traces.open_descriptors()
    orphans = strangers + _orphans(users)
    publish(
        {
            "jobs": options.jobs,
            "seconds": seconds,
            "orphans": orphans,
            "descriptors_before": descriptors,
            "descriptors_after": descriptors_after,
            "parent_resident_kib": soak.parent_kib,
            "zygote_resident_kib": soak.zygote_kib,
            "wrong_verdicts": len(soak.wrong),
            "hostile": options.hostile,
            "statuses": dict(soak.counts),
            "workers": options.workers,
            "seed": options.seed,
            "machine": here,
            "versions": versions(),
        },
        options.output,
    )
    return 1 if soak.wrong or orphans or descriptors_after > descriptors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
