"""Sizes, times and limits that both ends keep to."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from astor_rl.sandbox.api import CallJob, CallResult, Limits, Outcome, SuiteJob, TestsJob
from astor_rl.sandbox.remote import wire
from astor_rl.sandbox.remote.forms import WireError

INFO = wire.ServerInfo(wire.VERSION, "0", "3.11", 2, 8, 0, 0, False, "full", ("root",), {"a": "b"})


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"wall_s": 0}, r"job.limits.wall_s is 0; it must be above 0 and at most 3600"),
        ({"cpu_s": -1}, "job.limits.cpu_s is -1"),
        ({"wall_s": 1e9}, "job.limits.wall_s is 1000000000.0"),
        ({"memory_mb": 0}, "job.limits.memory_mb"),
        ({"output_kb": 1 << 30}, "job.limits.output_kb"),
        ({"processes": -1}, "job.limits.processes"),
        ({"open_files": 10**9}, "job.limits.open_files"),
    ],
)
def test_limits_out_of_reason_are_refused(limits: dict[str, int], says: str) -> None:
    with pytest.raises(WireError, match=says):
        wire.unpack_job(wire.pack_job(SuiteJob({}, {}, Limits(**limits))))


def test_repeats_and_deadlines_out_of_reason_are_refused() -> None:
    for repeat in (0, 101):
        with pytest.raises(WireError, match=f"job.repeat is {repeat}"):
            wire.unpack_job(wire.pack_job(CallJob("", (), repeat=repeat)))
    with pytest.raises(WireError, match="job.per_target_s is 0"):
        wire.unpack_job(wire.pack_job(TestsJob("m", (), "", per_target_s=0)))


def test_a_job_that_is_too_large_is_not_sent() -> None:
    with pytest.raises(WireError, match=f"a server takes {wire.MAX_REQUEST}"):
        wire.pack_job(CallJob("x" * wire.MAX_REQUEST, ()))


def test_a_reply_of_the_largest_results_and_prints_is_below_the_limit() -> None:
    job = CallJob("", ("1",), limits=Limits(output_kb=64))
    text = "\x00" * (64 << 10)
    outcome = Outcome("ok", calls=(CallResult("value", text),), stdout=text, stderr=text)
    assert len(wire.pack_outcome(outcome)) < wire.reply_limit(job)


def test_a_reply_is_waited_for_longer_than_the_job_may_take() -> None:
    limits = Limits(wall_s=10)
    one = wire.deadline_s(CallJob("", (), limits=limits))
    assert one > wire.QUEUE_S + 2 * 10
    assert wire.deadline_s(CallJob("", (), repeat=3, limits=limits)) > one + 2 * 2 * 10
    many = TestsJob("m", ("",) * 20, "", limits=limits)
    assert wire.deadline_s(many) > one + 2 * 20 * 10


def test_health_comes_back_and_another_version_is_named() -> None:
    assert wire.unpack_info(wire.pack_info(INFO)) == INFO
    other = json.dumps({**asdict(INFO), "wire": 2, "new": 1}).encode()
    with pytest.raises(WireError, match="speaks version 2 of the protocol, not 1"):
        wire.unpack_info(other)
    with pytest.raises(WireError, match="version None"):
        wire.unpack_info(b"[]")


def test_errors_are_one_line_whoever_sent_them() -> None:
    assert wire.unpack_error(wire.pack_error("no place")) == "no place"
    assert wire.unpack_error(b"<html>\n  <p>Bad   gateway") == "<html> <p>Bad gateway"
    assert wire.unpack_error(b"") == "no reason given"
    assert len(wire.unpack_error(b"x" * 10_000)) == 200
