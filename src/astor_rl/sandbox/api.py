"""The narrow waist to untrusted code: jobs in, values out.

Expected answers never appear in a job. Verdicts are computed by the caller from the values that
come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

Status = Literal[
    "ok",  # the harness ran to its end and every result arrived
    "error",  # the code could not be loaded (syntax error, exception at import)
    "timeout",  # wall-clock or CPU deadline
    "memory",  # address-space limit
    "output_limit",  # result or printed output above its limit
    "crash",  # killed by a signal that we did not send, or exited early
    "malformed",  # bytes on the result pipe that are not a result
    "infra_error",  # our fault: never a reward; the caller reports `Invalid`
]

LimitName = Literal["", "wall_s", "cpu_s", "memory_mb", "output_kb"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use.

    Attributes:
        wall_s: wall-clock seconds until the process tree is killed.
        cpu_s: CPU seconds.
        memory_mb: address space beyond the idle interpreter's, MiB.
        output_kb: bytes of results and of printed output that are kept, KiB each.
        file_mb: largest file, and the whole scratch directory where the kernel allows, MiB.
        processes: processes beyond the first. 0 forbids forking; sixteen threads are allowed
            besides. No program can be executed, whatever the number.
        open_files: descriptors.
    """

    wall_s: float = 4.0
    cpu_s: float = 4.0
    memory_mb: int = 512
    output_kb: int = 256
    file_mb: int = 8
    processes: int = 0
    open_files: int = 64


@dataclass(frozen=True, slots=True)
class CallJob:
    """Load `code` as a module, then evaluate expressions in its namespace, in order.

    Attributes:
        code: untrusted source.
        calls: Python expressions (`f([1, 2], k=3)`, `sorted(f(4))`), evaluated one by one.
            An exception in one doesn't stop the next.
        repeat: evaluate the whole job this often from scratch, to detect nondeterminism;
            a call whose results differ comes back as `unstable`.
        stdin: text on standard input.
    """

    code: str
    calls: tuple[str, ...]
    repeat: int = 1
    stdin: str = ""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class TestsJob:
    """Run untrusted tests against several versions of a trusted module.

    The tests have processes of their own, a fresh one for each version, and see stand-ins of what a
    version defines: neither its source nor which one it is.

    Attributes:
        module: import name of the module under test, without `.py`.
        targets: sources of the versions (the correct one, mutants, in an order that the tests
            can't know). Each runs in a fresh namespace.
        tests: untrusted test source: `test_*` functions, `unittest.TestCase` classes,
            `pytest.raises` / `parametrize` / `approx`, or bare top-level asserts.
        coverage_of: indices of targets whose line and branch coverage is measured.
        support: further importable files, name -> source.
        per_target_s: deadline for each target, seconds of CPU time of either side.
        reference: index of a target to compare the others with. What the tests ask of it is
            recorded and asked of all others; only those that answer otherwise (and copies of the
            reference) run the tests again, and none if they fail on it. See `TargetResult.differs`.
        shared_process: run everything in one process, version after version. The weaker tier:
            hostile tests can look at a version instead of calling it.
    """

    # Its name starts like a test's; pytest shall not collect it.
    __test__: ClassVar[bool] = False

    module: str
    targets: tuple[str, ...]
    tests: str
    coverage_of: tuple[int, ...] = ()
    support: Mapping[str, str] = field(default_factory=dict)
    per_target_s: float = 2.0
    limits: Limits = field(default_factory=Limits)
    reference: int | None = None
    shared_process: bool = False


@dataclass(frozen=True, slots=True)
class SuiteJob:
    """Run trusted test files against an untrusted solution.

    Each has a process of its own: the tests see stand-ins of what the solution defines, and the
    solution sees calls, never an expected value. Results come over the harness's channel, never
    from stdout or an exit code. A test that is missing, skipped or not reported counts as failed.

    Attributes:
        files: the solution's files, name -> untrusted source.
        tests: test files, name -> source (pytest or unittest style).
        support: further trusted files, name -> source; both sides have a copy of their own.
        judging: methods by which the solution's objects may have a say in what the tests find
            (`__eq__` with each other, `__lt__`, `__add__`, ...); None for all. From a run of the
            reference (`TargetResult.judged`), so that no solution can bring in its own.
        shared_process: run both sides in one process. The weaker tier: a hostile solution can
            patch what judges it. For tests that must reach into the solution's process.
    """

    files: Mapping[str, str]
    tests: Mapping[str, str]
    limits: Limits = field(default_factory=Limits)
    support: Mapping[str, str] = field(default_factory=dict)
    judging: tuple[str, ...] | None = None
    shared_process: bool = False


Job = CallJob | TestsJob | SuiteJob


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that can't cross: not an exact builtin. Equal to nothing but itself."""

    type_name: str
    text: str


@dataclass(frozen=True, slots=True)
class CallResult:
    """One evaluated expression.

    Attributes:
        kind: `value`, `raised`, or `unstable` (repeats disagreed).
        value: exact builtins rebuilt in the parent (None, bool, int, float, complex, str, bytes,
            list, tuple, set, frozenset, dict, range, and stdlib Counter / OrderedDict /
            defaultdict / deque as their plain base), else `Opaque`.
        error: the exception's type name when `raised`.
        message: its text, cut.
    """

    kind: Literal["value", "raised", "unstable"]
    value: Any = None
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the tests reached of one target: executed / existing lines and branch arcs."""

    lines_hit: int
    lines: int
    branches_hit: int
    branches: int


@dataclass(frozen=True, slots=True)
class TargetResult:
    """The tests on one target.

    Attributes:
        status: `ok` when the run of this target reached its end.
        passed, failed: names of collected tests by result (an error or a skip is a failure).
        assertions: assert statements (and raises/approx checks) that were evaluated.
        coverage: when asked for.
        message: the first failure, cut.
        differs: of a `TestsJob` with a reference: whether this target answered the tests' calls
            otherwise than the reference, failed to load, crashed or ran out of time.
        judged: of a `SuiteJob` in two processes: methods by which the solution's objects had a
            say, sorted.
    """

    status: Status
    passed: tuple[str, ...]
    failed: tuple[str, ...]
    assertions: int
    coverage: Coverage | None = None
    message: str = ""
    differs: bool = False
    judged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: see `Status`. Exit codes never mean success.
        calls: results of a `CallJob`, one per call, only when `ok`.
        targets: results of a `TestsJob`, one per target; of a `SuiteJob`, exactly one.
        message: the load error, or what limit was hit; one line.
        limit: the field of `Limits` that ended it, empty if none did.
        stdout, stderr: tails of what was printed. Data, never a verdict.
        seconds: wall time of the job's processes, one after the other.
        peak_memory_mb: resident high-water mark, the largest where there were several.
        signal: number of the signal that ended it, 0 if none; always 0 when `ok`.
        tier: the protections that were in force, e.g. `full`, `landlock`, `unsafe`.
    """

    status: Status
    calls: tuple[CallResult, ...] = ()
    targets: tuple[TargetResult, ...] = ()
    message: str = ""
    limit: LimitName = ""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    signal: int = 0
    tier: str = ""


class SandboxPool(Protocol):
    """Runs jobs in worker processes. Thread-safe; use as a context manager."""

    async def submit(self, job: Job) -> Outcome:
        """Run one job. Never raises for what the job's code does."""
        ...

    def map(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Run many, results in the order of the jobs, with bounded read-ahead."""
        ...

    def close(self) -> None:
        """Kill everything and wait until it is gone. Idempotent."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
