"""Dataclasses as JSON: exact there and back, and nothing else is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.sandbox import codec
from astor_rl.sandbox.api import (
    CallJob,
    CallResult,
    Coverage,
    Job,
    Limits,
    Opaque,
    Outcome,
    SuiteJob,
    TargetResult,
    TestsJob,
)
from astor_rl.sandbox.remote.forms import WireError, dumps, loads

JOBS: list[Job] = [
    CallJob("def f(): pass", ("f()", "f(1)"), repeat=3, stdin="é\n\ud800", limits=Limits(wall_s=9)),
    TestsJob("m", ("x = 1", "x = 2"), "tests", (0, 1), {"a.py": "", "b": "2"}, 0.25),
    SuiteJob({"s.py": "code"}, {"t.py": "tests"}, Limits(cpu_s=1.5, processes=2)),
]

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.binary()
)  # fmt: skip
hashable = scalars | st.tuples(scalars, scalars) | st.frozensets(scalars)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.sets(hashable) | st.dictionaries(hashable, inner)
    ),
    max_leaves=20,
)


def exact(value: Any) -> bytes:
    """Tells 1 from True and 1.0, and one NaN from another."""
    return codec.encode(value, 1 << 30)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_jobs_come_back_as_they_were(job: Job) -> None:
    assert loads(dumps(job, Job), Job, "job") == job


@given(values)
def test_values_come_back_exactly(value: Any) -> None:
    outcome = Outcome("ok", calls=(CallResult("value", value),))
    (back,) = loads(dumps(outcome, Outcome), Outcome, "outcome").calls
    assert exact(back.value) == exact(value)


def test_what_is_not_plain_json_comes_back() -> None:
    large = 10**10_000
    value = [float("nan"), -0.0, {1, (2, b"\xff")}, large, Opaque("C", "<C>"), range(3), "\ud800"]
    outcome = Outcome(
        "ok",
        calls=(CallResult("value", value), CallResult("raised", error="E", message="\x00")),
        targets=(
            TargetResult("timeout", ("a",), (), 3, Coverage(1, 2, 3, 4), "m"),
            TargetResult("ok", (), (), 0),
        ),
        stdout="\x1b[0m\ufffd",
        seconds=0.1,
        signal=9,
        tier="full",
    )
    back = loads(dumps(outcome, Outcome), Outcome, "outcome")
    assert exact(back.calls[0].value) == exact(value)
    assert back.calls[1] == outcome.calls[1]
    assert (back.targets, back.stdout, back.seconds) == (outcome.targets, outcome.stdout, 0.1)
    assert (back.signal, back.tier) == (9, "full")


def changed(**changes: Any) -> bytes:
    raw = json.loads(dumps(JOBS[0], Job))
    raw["CallJob"].update(changes)
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "job is not JSON"),
        (b"\xff", "job is not JSON"),
        (b"[" * 100_000, "job is not JSON"),
        (b"null", "job is None; it must be a table with one key of CallJob, TestsJob, SuiteJob"),
        (b'{"Job": {}}', "it must be a table with one key of"),
        (b'{"CallJob": []}', r"job.CallJob is \[\]; it must be a table"),
        (b'{"CallJob": {}}', "job.CallJob lacks the key 'calls'"),
        (b'{"CallJob": {}, "CallJob": {}}', "a key is there twice"),
        (changed(shell="sh"), "job.CallJob has the key 'shell', which is not known"),
        (changed(code=None), "job.CallJob.code is None; it must be a text"),
        (changed(calls="f()"), "job.CallJob.calls is 'f\\(\\)'; it must be a list"),
        (changed(calls=[1]), r"job.CallJob.calls\[0\] is 1; it must be a text"),
        (changed(repeat=True), "job.CallJob.repeat is True; it must be a whole number"),
        (changed(repeat=2.0), "job.CallJob.repeat is 2.0; it must be a whole number"),
        (changed(limits={"wall_s": 1}), "job.CallJob.limits lacks the key 'cpu_s'"),
        (changed(stdin=float("inf")), "Infinity is no number of JSON"),
        (changed().replace(b'"wall_s": 9', b'"wall_s": 1e999'), "wall_s is inf"),
        (changed(repeat=7).replace(b"7", b"7" * 5000), "job is not JSON"),
    ],
)  # fmt: skip
def test_anything_else_is_named_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says) as caught:
        loads(data, Job, "job")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("!", "no encoded value"),
        ("AAAA", "unknown tag"),
        ("TlQ=", "bytes after the value"),
        (3, "must be an encoded value"),
    ],
)
def test_values_that_are_none(value: Any, says: str) -> None:
    raw = json.loads(dumps(Outcome("ok", calls=(CallResult("value"),)), Outcome))
    raw["calls"][0]["value"] = value
    with pytest.raises(WireError, match=says):
        loads(json.dumps(raw).encode(), Outcome, "outcome")


def test_statuses_are_the_known_ones() -> None:
    raw = json.loads(dumps(Outcome("ok"), Outcome))
    for bad in ("passed", None, 1, ["ok"]):
        with pytest.raises(WireError, match="outcome.status is"):
            loads(json.dumps({**raw, "status": bad}).encode(), Outcome, "outcome")


@pytest.mark.parametrize("thing", ["a text", None, Limits(), CallJob(1, ()), CallJob("", (b"",))])
def test_what_is_no_job_is_not_sent(thing: Any) -> None:
    with pytest.raises(WireError):
        loads(dumps(thing, Job), Job, "job")


def test_a_type_without_a_form_is_a_mistake_of_the_programmer() -> None:
    with pytest.raises(TypeError, match="no form is known"):
        loads(b"{}", Mapping[int, str], "x")
