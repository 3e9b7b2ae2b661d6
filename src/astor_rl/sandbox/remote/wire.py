"""What trainers and sandbox servers say to each other: paths, sizes, times, jobs and outcomes.

    POST /v1/jobs    one job as JSON         200  its outcome
    GET  /v1/health                          200  a `ServerInfo`

Other answers are `{"error": "<one line>"}`: 400 not a job, 401 wrong token, 408 too slow, 413 too
large, 500 the sandbox failed, 503 no place now (with `Retry-After`, seconds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from astor_rl.sandbox.api import CallJob, Job, Limits, Outcome, TestsJob
from astor_rl.sandbox.remote import forms
from astor_rl.sandbox.remote.forms import WireError
from astor_rl.sandbox.worker import GRACE_S

VERSION: Final = 1
"""Of everything here. Ends of different versions don't work together."""
JOBS_PATH: Final = f"/v{VERSION}/jobs"
HEALTH_PATH: Final = f"/v{VERSION}/health"
MAX_REQUEST: Final = 16 << 20
"""Bytes of a job."""
QUEUE_S: Final = 30.0
"""How long a server keeps a job waiting for a worker before it sends it back, seconds."""

_MARGIN_S: Final = 60.0
"""What the network and the start of a zygote on a loaded machine may take, seconds."""
_ATTEMPTS: Final = 2
_MOST: Final[Mapping[str, float]] = {
    "wall_s": 3600.0,
    "cpu_s": 3600.0,
    "memory_mb": 1 << 20,
    "output_kb": 64 << 10,
    "file_mb": 64 << 10,
    "processes": 1024,
    "open_files": 64 << 10,
}
_MOST_REPEATS: Final = 100


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself.

    Attributes:
        wire, astor, python: versions of this protocol, of astor-rl, of Python (`3.11`).
        workers: jobs at a time.
        queue: jobs that may wait besides.
        running, queued: how many do now.
        stopping: it takes no more jobs.
        tier: as in `Outcome.tier`.
        applied: protections in force.
        missing: protections that are not, and why.
    """

    wire: int
    astor: str
    python: str
    workers: int
    queue: int
    running: int
    queued: int
    stopping: bool
    tier: str
    applied: tuple[str, ...]
    missing: Mapping[str, str]


def pack_job(job: Job) -> bytes:
    """A request's body.

    Raises:
        WireError: no job, or larger than `MAX_REQUEST`.
    """
    body = forms.dumps(job, Job)
    if len(body) > MAX_REQUEST:
        raise WireError(f"the job has {len(body)} bytes; a server takes {MAX_REQUEST}")
    return body


def unpack_job(body: bytes) -> Job:
    """The job of a request, its limits within reason.

    Raises:
        WireError: anything else.
    """
    job: Job = forms.loads(body, Job, "job")
    _check_limits(job.limits)
    if isinstance(job, CallJob) and not 1 <= job.repeat <= _MOST_REPEATS:
        raise WireError(f"job.repeat is {job.repeat}; it must be in [1, {_MOST_REPEATS}]")
    if isinstance(job, TestsJob):
        _within("job.per_target_s", job.per_target_s, _MOST["wall_s"])
    return job


def _check_limits(limits: Limits) -> None:
    for name, most in _MOST.items():
        value = getattr(limits, name)
        if name == "processes" and value == 0:
            continue
        _within(f"job.limits.{name}", value, most)


def _within(name: str, value: float, most: float) -> None:
    if not 0 < value <= most:
        raise WireError(f"{name} is {value}; it must be above 0 and at most {most:g}")


def pack_outcome(outcome: Outcome) -> bytes:
    """A reply's body."""
    return forms.dumps(outcome, Outcome)


def unpack_outcome(body: bytes) -> Outcome:
    """The outcome of a reply.

    Raises:
        WireError: it isn't one.
    """
    outcome: Outcome = forms.loads(body, Outcome, "outcome")
    return outcome


def pack_info(info: ServerInfo) -> bytes:
    """The body of an answer about health."""
    return forms.dumps(info, ServerInfo)


def unpack_info(body: bytes) -> ServerInfo:
    """What a server says of itself.

    Raises:
        WireError: it isn't that, or comes from another version.
    """
    data: Any = forms.parse(body, "health")
    wire = data.get("wire") if isinstance(data, dict) else None
    if wire != VERSION:
        raise WireError(f"the server speaks version {wire!r} of the protocol, not {VERSION}")
    info: ServerInfo = forms.loads(body, ServerInfo, "health")
    return info


def pack_error(line: str) -> bytes:
    """The body of any answer but 200."""
    return forms.dumps({"error": line}, Mapping[str, str])


def unpack_error(body: bytes) -> str:
    """Its line; whatever else is there (a proxy's page) is cut to one."""
    try:
        table = forms.loads(body, Mapping[str, str], "error")
        text: str = table["error"]
    except (WireError, KeyError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:200] or "no reason given"


def deadline_s(job: Job) -> float:
    """Seconds after which a reply that isn't there will never come.

    A job that runs longest: each of its processes takes all its wall-clock time and the grace
    after it, twice.
    """
    processes = 1
    if isinstance(job, CallJob):
        processes = max(1, job.repeat)
    elif isinstance(job, TestsJob):
        processes = 2 + len(job.targets)
    return QUEUE_S + _MARGIN_S + _ATTEMPTS * processes * (job.limits.wall_s + GRACE_S)


def reply_limit(job: Job) -> int:
    """Bytes of a reply that an honest server stays below.

    Results, stdout and stderr are each held to `output_kb`; JSON takes six bytes for a control
    character.
    """
    return (1 << 20) + 3 * 6 * (job.limits.output_kb << 10)
