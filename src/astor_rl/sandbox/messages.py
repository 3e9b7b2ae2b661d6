"""What came back from a job's process, judged without trusting a byte of it."""

from __future__ import annotations

import os
import signal
import struct
from typing import Any, Final, cast

from astor_rl.sandbox import codec
from astor_rl.sandbox.api import LimitName, Outcome, Status
from astor_rl.sandbox.inside.protocol import END, STUCK
from astor_rl.sandbox.worker import Run

SAID: Final[frozenset[Status]] = frozenset(("ok", "error", "memory", "output_limit"))
"""What a job may say of itself. The rest is for the parent to see: above all `infra_error`, which
would leave a rollout without a reward."""
SAID_OF_OTHERS: Final[frozenset[Status]] = SAID | {"timeout", "crash", "malformed"}
"""What a trusted process may say of itself and of the untrusted one beside it."""
_LENGTH: Final = struct.Struct("<I")
_MESSAGE_CHARACTERS: Final = 400
_WALL_MESSAGE: Final = "wall-clock deadline"
_CPU_MESSAGE: Final = "CPU deadline"
_DEADLINES: Final[dict[str, LimitName]] = {_WALL_MESSAGE: "wall_s", _CPU_MESSAGE: "cpu_s"}
_LIMITS: Final[dict[Status, LimitName]] = {"memory": "memory_mb", "output_limit": "output_kb"}
_STUCK_MESSAGE: Final = "swallowed its deadlines"
_ASLEEP_MESSAGE: Final = "did nothing but sleep"
_LEFT_EARLY: Final = "exited early with code"


def outcome_of(
    run: Run, tier: str, said: frozenset[Status] = SAID
) -> tuple[Outcome, list[list[Any]], list[Any]]:
    """How a run ended.

    Its own word counts only if the process ended by itself with code 0, within every limit, and
    sent well-formed messages only, each after its token.

    Args:
        run: how it went.
        tier: the protections that were in force.
        said: the statuses that its own word may name.

    Returns:
        the outcome without results, the messages sent on the way, and what the harness added to
        its last message (empty if it didn't reach its end).
    """
    ended_by = os.WTERMSIG(run.status) if os.WIFSIGNALED(run.status) else 0
    failed = _failure(run, ended_by)
    verdict: tuple[Status, str] = failed or ("crash", f"{_LEFT_EARLY} 0")
    messages: list[list[Any]] = []
    last: list[Any] = []
    try:
        messages = _messages(run, whole=failed is None)
        if failed is None and messages and messages[-1][:1] == [END]:
            _, status, text, *last = messages.pop()
            if status not in said or type(text) is not str:
                raise codec.CodecError("not a status")
            verdict = cast(Status, status), text
    except (codec.CodecError, TypeError, ValueError) as error:
        if verdict[0] in ("ok", "crash"):
            verdict = "malformed", f"not a result: {error}"
        messages, last = [], []
    outcome = Outcome(
        status=verdict[0],
        message=one_line(verdict[1]),
        limit=_limit(*verdict),
        stdout=run.stdout.decode("utf-8", "replace"),
        stderr=run.stderr.decode("utf-8", "replace"),
        seconds=run.seconds,
        peak_memory_mb=run.peak_kb / 1024,
        signal=ended_by,
        tier=tier,
    )
    return outcome, messages, last


def _limit(status: Status, message: str) -> LimitName:
    """The field of `Limits` that ended a job."""
    if status == "timeout":
        return _DEADLINES.get(message, "")
    return _LIMITS.get(status, "")


def stuck(outcome: Outcome) -> bool:
    """Whether the job did not stop where it should have, and would not the next time."""
    return outcome.status == "timeout" and outcome.message in (_STUCK_MESSAGE, _ASLEEP_MESSAGE)


def one_line(text: str) -> str:
    """Text for people: white space collapsed, cut."""
    return " ".join(text.split())[:_MESSAGE_CHARACTERS]


def _failure(run: Run, ended_by: int) -> tuple[Status, str] | None:
    if run.flooded:
        return "output_limit", f"{run.flooded} above the limit"
    if run.asleep:
        return "timeout", _ASLEEP_MESSAGE
    if run.late:
        return "timeout", _WALL_MESSAGE
    if ended_by == signal.SIGXCPU or (ended_by == signal.SIGKILL and run.cpu_s >= run.cpu_limit_s):
        return "timeout", _CPU_MESSAGE
    if ended_by:
        return "crash", f"killed by signal {ended_by}"
    if code := os.waitstatus_to_exitcode(run.status):
        if code == STUCK:
            return "timeout", _STUCK_MESSAGE
        return "crash", f"{_LEFT_EARLY} {code}"
    return None


def _messages(run: Run, *, whole: bool) -> list[list[Any]]:
    """Every message of a run; without `whole`, a last one that was cut is left out.

    Raises:
        codec.CodecError: anything else on the pipe.
    """
    data, at, found = run.results, 0, []
    head = len(run.token) + _LENGTH.size
    while at < len(data):
        mark = data[at : at + len(run.token)]
        if mark != run.token[: len(mark)]:
            raise codec.CodecError("a message without its token")
        start = at + head
        end = start + _LENGTH.unpack(data[start - 4 : start])[0] if start <= len(data) else start
        if end > len(data):
            if whole:
                raise codec.CodecError("a message ends early")
            break
        message = codec.decode(data[start:end])
        if type(message) is not list:
            raise codec.CodecError("not a message")
        found.append(message)
        at = end
    return found
