"""Reads the attacks, makes jobs of them, and says whether an outcome is the one they must have.

A file is a goal. An attack is a program, the job it runs in, and the exact end it must come to:

    job       `call` (the default), `suite` (the program is the solution) or `tests` (the tests)
    calls     expressions of a `call`
    verdict   the job's status; of `suite`, "not a pass"; of `tests`, "not a kill"
    values    what the calls give, in the form of `plain`
    message, signal   what the outcome says besides
    limits    what differs from `LIMITS`; `per_target_s` is the deadline of `tests` on a version
    compared  the versions of `tests` are compared with the first, which is measured
    stdin, files      standard input; further files beside a solution
    victim    code that another job runs before, whose traces the attack looks for
    outside   the values that plain Python gives for the same calls: there the attack works
    outside_exit      or the code that Python (`call`) or pytest (`suite`, `tests`) exits with
    anywhere  the end is the same where protections are missing (`landlock` tier)
    machine   the processor that it is written for
    bare      without the common prelude

A program that calls `reached()` must have got there.
"""

from __future__ import annotations

import math
import os
import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, cast

from astor_rl.sandbox.api import (
    CallJob,
    CallResult,
    Job,
    Limits,
    Opaque,
    Outcome,
    SandboxPool,
    SuiteJob,
    TestsJob,
)

FOLDER: Final = Path(__file__).resolve().parents[2] / "tests" / "sandbox" / "attacks"
GOALS: Final = ("escape", "forge", "exhaust", "linger", "spy", "confuse")
LIMITS: Final[dict[str, Any]] = {"wall_s": 120.0, "cpu_s": 60.0}
"""Generous: only an attack's own limits shall end it."""
_MARK: Final = "<reached>"
_LONG: Final = 1000
_MORE_TIME: Final = 4.0
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack; the fields are told above."""

    goal: str
    name: str
    program: str
    job: Literal["call", "suite", "tests"] = "call"
    calls: tuple[str, ...] = ("1",)
    verdict: str = "ok"
    values: tuple[Any, ...] | None = None
    message: str = ""
    signal: int = 0
    limits: dict[str, float] = field(default_factory=dict)
    per_target_s: float = 1.0
    compared: bool = False
    stdin: str = ""
    files: dict[str, str] = field(default_factory=dict)
    victim: str = ""
    outside: tuple[Any, ...] | None = None
    outside_exit: int | None = None
    anywhere: bool = False
    machine: str = ""
    bare: bool = False

    @property
    def reaches(self) -> bool:
        """Whether the program says how far it got."""
        return "reached()" in self.program or any("reached()" in call for call in self.calls)

    @property
    def shown(self) -> bool:
        """Whether something shows that the program did what it is named after."""
        checked = self.values is not None or self.outside_exit is not None or bool(self.message)
        return self.reaches or checked or self.job != "call"


@lru_cache(maxsize=1)
def common() -> dict[str, str]:
    """The prelude of calls, the trusted tests of suites, and the versions that tests run on."""
    return cast(dict[str, str], _read("common"))


@lru_cache(maxsize=1)
def attacks() -> tuple[Attack, ...]:
    """Every attack that this machine's processor can run, by goal.

    Raises:
        ValueError: an attack has a key that is not told above, or a name that another has.
    """
    found = [attack for goal in GOALS for attack in _attacks(goal)]
    names = [attack.name for attack in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two attacks are called {sorted(twice)}")
    return tuple(a for a in found if a.machine in ("", platform.machine()))


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def _attacks(goal: str) -> Iterator[Attack]:
    known = {f.name for f in fields(Attack)} - {"goal"}
    for entry in _read(goal)["attack"]:
        if unknown := set(entry) - known:
            raise ValueError(f"{goal}: {entry.get('name')!r} has the unknown keys {unknown}")
        tuples = {k: tuple(v) for k, v in entry.items() if isinstance(v, list)}
        program = entry.get("program", "")
        yield Attack(**{**entry, **tuples, "goal": goal, "program": program})


def source(attack: Attack) -> str:
    """The code of a `call`."""
    return attack.program if attack.bare else common()["prelude"] + attack.program


def job_of(attack: Attack, patience: float = 1.0) -> Job:
    """The attack as a job; its wall-clock limit times `patience`."""
    given = {**LIMITS, **attack.limits}
    whole = {k: v if k in ("wall_s", "cpu_s") else int(v) for k, v in given.items()}
    limits = Limits(**{**whole, "wall_s": given["wall_s"] * patience})
    shared = common()
    if attack.job == "suite":
        files = {"calc.py": attack.program, **attack.files}
        return SuiteJob(files, {"calc_test.py": shared["suite"]}, limits=limits)
    if attack.job == "tests":
        versions = (shared["correct"], shared["mutant"], shared["correct"])
        job = TestsJob(
            "calc", versions, attack.program, per_target_s=attack.per_target_s, limits=limits
        )
        return replace(job, reference=0, coverage_of=(0,)) if attack.compared else job
    return CallJob(source(attack), attack.calls, stdin=attack.stdin, limits=limits)


def run(attack: Attack, pool: SandboxPool) -> Outcome:
    """Run it, after its victim.

    A deadline that came before the program had got to its attack is given more time: on a loaded
    machine it proves nothing.
    """
    if attack.victim:
        (victim,) = pool.map([CallJob(attack.victim, ())])
        assert victim.status == "ok", victim
    for attempt in range(_ATTEMPTS):
        (outcome,) = pool.map([job_of(attack, _MORE_TIME**attempt)])
        if not too_early(attack, outcome):
            break
    return outcome


def too_early(attack: Attack, outcome: Outcome) -> bool:
    """Whether the deadline came before the attack."""
    return attack.reaches and outcome.status == "timeout" and _MARK not in outcome.stdout


def verdict(attack: Attack, outcome: Outcome) -> str:
    """What an outcome comes to, in the words of the attack's `verdict`."""
    if attack.job == "suite":
        return "pass" if is_pass(outcome) else "not a pass"
    if attack.job == "tests":
        return "kill" if is_kill(outcome) else "not a kill"
    return outcome.status


def is_pass(outcome: Outcome) -> bool:
    """Whether every test of a suite passed."""
    (target,) = outcome.targets
    return outcome.status == target.status == "ok" and bool(target.passed) and not target.failed


def is_kill(outcome: Outcome) -> bool:
    """Whether the correct version passes both times, by assertions, and the mutant doesn't."""
    first, mutant, second = (
        target.status == "ok" and not target.failed for target in outcome.targets
    )
    checked = all(target.assertions and target.passed for target in outcome.targets[::2])
    return outcome.status == "ok" and first and second and checked and not mutant


def problems(attack: Attack, outcome: Outcome) -> list[str]:
    """How an outcome differs from what the attack must come to; empty if it doesn't."""
    found = []
    if (got := verdict(attack, outcome)) != attack.verdict:
        found.append(f"verdict {got!r}, not {attack.verdict!r}: {outcome.message}")
    if outcome.status == "infra_error":
        found.append(f"the sandbox failed: {outcome.message}")
    if attack.message not in outcome.message:
        found.append(f"message {outcome.message!r} without {attack.message!r}")
    if attack.signal and outcome.signal != attack.signal:
        found.append(f"signal {outcome.signal}, not {attack.signal}")
    if attack.reaches and _MARK not in outcome.stdout:
        found.append(
            f"the program did not get to its attack: {outcome.stdout!r} {outcome.stderr!r}"
        )
    if attack.values is not None and (values := [shown(c) for c in outcome.calls]) != list(
        attack.values
    ):
        found.append(f"values {values}, not {list(attack.values)}")
    return found


def shown(result: CallResult) -> Any:
    """A call's result in the form of `values`: `!ValueError` for an exception."""
    return f"!{result.error}" if result.kind == "raised" else plain(result.value)


def plain(value: Any) -> Any:
    """A value in terms of TOML.

    `<name>` for an `Opaque`; tuples, sets and dicts as lists (of pairs); bytes as text; what TOML
    has no form for as its `repr`; long texts as [first sign, length].
    """
    if isinstance(value, Opaque):
        return f"<{value.type_name}>"
    if isinstance(value, dict):
        return [[plain(key), plain(item)] for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float) else repr(value)


def _plain_text(value: str) -> Any:
    if len(value) > _LONG:
        return [value[0], len(value)]
    return ascii(value) if any("\ud800" <= sign <= "\udfff" for sign in value) else value


def honest(pool: SandboxPool) -> list[str]:
    """Whether the next honest jobs on a pool get right answers, one of each kind; else how not."""
    number = int.from_bytes(os.urandom(4), "little")
    shared = common()
    body = "def add(a, b):\n    return a + b\n"
    jobs: list[Job] = [
        CallJob(f"import os\nx = {number}", ("x + 1", "os.listdir('.')", "os.getcwd()")),
        SuiteJob({"calc.py": body}, {"calc_test.py": shared["suite"]}, limits=Limits(**LIMITS)),
        TestsJob(
            "calc",
            (shared["correct"], shared["mutant"], shared["correct"]),
            "from calc import add\ndef test_a():\n    assert add(1, 2) == 3\n",
            per_target_s=60.0,
            limits=Limits(**LIMITS),
        ),
    ]
    call, suite, tests = pool.map(jobs)
    found = []
    values = [result.value for result in call.calls]
    if values[:2] != [number + 1, []]:
        found.append(f"the next call: {call}")
    if not is_pass(suite):
        found.append(f"the next test file: {suite}")
    if not is_kill(tests):
        found.append(f"the next tests: {tests}")
    return found
