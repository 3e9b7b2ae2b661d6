from __future__ import annotations

import asyncio
import logging

import pytest

from astor_rl.errors import SandboxError
from astor_rl.tasks import guard
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.commit_message import CommitMessageTask
from astor_rl.tasks.io_prediction import IOPredictionTask
from astor_rl.tasks.unit_test_generation import UnitTestGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid

CODE = "def f(n):\n    return n + 1\n"
ROWS = {
    "output": {"code": CODE, "input": "1", "output": "2", "direction": "output"},
    "input": {"code": CODE, "input": "1", "output": "2", "direction": "input"},
    "code": {
        "prompt": "Add 1.",
        "entry_point": "f",
        "reference": CODE,
        "tests": ["assert f(1) == 2"],
    },
    "tests": {"module": "focal", "code": CODE, "reference_tests": "assert f(1) == 2"},
    "message": {"diff": "+x", "subject": "Add x"},
}


class Buggy:
    """A sandbox with a bug, for one example's code or for everybody's."""

    def __init__(self, error):
        self._error = error

    async def submit(self, job):
        raise self._error


def tasks(sandbox):
    return {
        "output": IOPredictionTask(sandbox),
        "input": IOPredictionTask(sandbox),
        "code": CodeGenerationTask(sandbox),
        "tests": UnitTestGenerationTask(sandbox),
        "message": CommitMessageTask(synonyms="off"),
    }


def score(name, sandbox, texts):
    task = tasks(sandbox)[name]
    example = task.example(ROWS[name], origin="rows:1")
    golds = [task.answer(example), *texts]
    return asyncio.run(task.score([(example, rollout_of(text)) for text in golds]))


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch):
    monkeypatch.setattr(guard, "_told", set())


@pytest.mark.parametrize("name", ["input", "code", "tests"])
def test_a_bug_while_running_one_rollout_is_invalid_and_logged_once(name, caplog):
    with caplog.at_level(logging.WARNING):
        found = score(name, Buggy(ZeroDivisionError("no lines")), ["<answer>5</answer>", "no ("])
    assert found[0] == Invalid("the verifier failed: ZeroDivisionError: no lines")
    assert len(found) == 3
    (record,) = caplog.records
    assert "ZeroDivisionError" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("name", ["input", "code", "tests"])
def test_a_sandbox_that_cannot_work_at_all_still_ends_the_run(name):
    with pytest.raises(SandboxError, match="no fork"):
        score(name, Buggy(SandboxError("no fork")), [])


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("output", "io_prediction", "tagged"),
        ("input", "io_prediction", "tagged"),
        ("code", "code_generation", "fences"),
        ("tests", "unit_test_generation", "fences"),
        ("message", "commit_message", "b_norm"),
    ],
)
def test_a_bug_in_reading_one_answer_leaves_the_others_judged(
    name, module, function, pool, monkeypatch
):
    home = f"astor_rl.tasks.{module}.{function}"
    real = __import__(f"astor_rl.tasks.{module}", fromlist=[function]).__dict__[function]

    def fragile(text, *rest):
        if "trap" in text:
            raise RecursionError("deep")
        return real(text, *rest)

    monkeypatch.setattr(home, fragile)
    gold, trapped = score(name, pool, ["trap"])
    assert gold.outcome > 0.9
    assert trapped == Invalid("the verifier failed: RecursionError: deep")


@pytest.mark.parametrize("text", ["a" + ".a" * 2500, "0x" + "f" * 9000, "a" + "()" * 900])
def test_hostile_arguments_are_wrong_and_no_failure(text):
    _, found = score("input", Buggy(ZeroDivisionError()), [f"<answer>{text}</answer>"])
    assert (found.outcome, found.format) == (0, 0)
