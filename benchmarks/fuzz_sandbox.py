"""Random programs through one pool: it must never hang, never raise, and stay well.

    python -m benchmarks.fuzz_sandbox [--jobs 1000] [--seed 0]

The last line is JSON. The exit code is 1 if an outcome was impossible or something was left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, get_args

from astor_rl.sandbox import codec
from astor_rl.sandbox.api import CallJob, Job, Limits, Outcome, Status, SuiteJob, TestsJob
from astor_rl.sandbox.pool import ProcessPool
from benchmarks.attacks import catalogue, traces, trial
from benchmarks.attacks.programs import Programs

_LIMITS: Final = Limits(wall_s=1.0, cpu_s=1.0, memory_mb=128)
_HONEST_EVERY: Final = 50
_SHOWN: Final = 10
_TESTS: Final = (
    "from calc import add\nimport unittest, pytest\n\nclass T(unittest.TestCase):\n"
    "    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\n\n"
    "@pytest.mark.parametrize('a', [1, 2])\ndef test_b(a):\n    assert add(a, 0) == a\n"
)
# With the token of its own run: so that the reader meets more than a wrong token.
_FRAMES: Final = """
import gc, os
gc.unfreeze()
token = b""
for o in gc.get_objects():
    if type(o).__name__ == "cell":
        try:
            if type(o.cell_contents) is bytes and len(o.cell_contents) == 16:
                token = o.cell_contents
        except ValueError:
            pass
for body in {bodies!r}:
    os.write(201, token + len(body).to_bytes(4, "little") + body)
"""


class _Fuzz:
    def __init__(self, jobs: int, seed: int) -> None:
        self._jobs = jobs
        self._dice = random.Random(seed)
        self._programs = Programs(self._dice)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, pool: ProcessPool) -> None:
        """Every job, in portions; after each the pool must be well."""
        left = self._jobs
        while left > 0:
            jobs = [self._job() for _ in range(min(left, _HONEST_EVERY))]
            for job, outcome in zip(jobs, pool.map(jobs), strict=True):
                self.counts[outcome.status] += 1
                self.wrong += [f"{p}: {job}"[:2000] for p in _impossible(job, outcome)]
            self.wrong += catalogue.honest(pool)
            left -= len(jobs)

    def _job(self) -> Job:
        made = self._programs
        match self._dice.randrange(10):
            case 0:
                files = {"calc.py": made.mutated(catalogue.common()["correct"])}
                tests = {"calc_test.py": self._dice.choice((_TESTS, made.mutated(_TESTS)))}
                return SuiteJob(files, tests, limits=_LIMITS)
            case 1:
                versions = (catalogue.common()["correct"], made.program())
                tested = self._dice.choice((made.mutated(_TESTS), made.built()))
                return TestsJob("calc", versions, tested, per_target_s=0.5, limits=_LIMITS)
            case 2:
                return CallJob(_FRAMES.format(bodies=self._bodies()), ("1",), limits=_LIMITS)
            case _:
                program = made.program()
                calls = tuple(made.call(program) for _ in range(self._dice.randrange(4)))
                return CallJob(program, calls, stdin=made.noise(), limits=_LIMITS)

    def _bodies(self) -> list[bytes]:
        value: Any = self._dice.choice((1, "x", [1, (2.5, {3})], {"a": b"b"}, None, range(3)))
        row = ["value", codec.encode(value, 1000), "", ""]
        status = self._dice.choice(("ok", "error", "memory", "timeout", "infra_error", 1))
        messages = (["end", status, "", [row]], ["end", status], [status, "x", ""], value)
        return [
            self._programs.bytes_like(codec.encode(self._dice.choice(messages), 10_000))
            for _ in range(self._dice.randrange(1, 4))
        ]


def _impossible(job: Job, outcome: Outcome) -> Iterator[str]:
    if outcome.status not in get_args(Status) or outcome.status == "infra_error":
        yield f"status {outcome.status!r} ({outcome.message})"
    if "\n" in outcome.message:
        yield f"a message of several lines: {outcome.message!r}"
    expected = len(job.calls) if isinstance(job, CallJob) and outcome.status == "ok" else 0
    if len(outcome.calls) != expected:
        yield f"{len(outcome.calls)} results, not {expected}"
    if isinstance(job, TestsJob) and len(outcome.targets) != len(job.targets):
        yield f"{len(outcome.targets)} targets, not {len(job.targets)}"


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="A fuzz run of the sandbox.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    fuzz = _Fuzz(options.jobs, options.seed)
    with ProcessPool(1) as pool:
        before = trial.baseline(pool)
        fuzz.run(pool)
        fuzz.wrong += traces.look().since(before)
    for wrong in fuzz.wrong[:_SHOWN]:
        print(wrong, file=sys.stderr)
    result = {"jobs": options.jobs, "seed": options.seed, "wrong": len(fuzz.wrong)}
    print(json.dumps({**result, "statuses": dict(fuzz.counts)}))
    return 1 if fuzz.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
