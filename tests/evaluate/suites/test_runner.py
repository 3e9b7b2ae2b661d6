"""Turns, samples, seeds, room for an answer; and going on where a killed evaluation was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from astor_rl.cli.app import run as run_command
from astor_rl.data.rows import Row
from astor_rl.errors import StateError
from astor_rl.evaluate.suites.base import TOO_LONG, Answer
from astor_rl.evaluate.suites.data import SuiteRows
from astor_rl.evaluate.suites.results import suite_result, table
from astor_rl.evaluate.suites.store import EvaluationFolder, SampleFile, refuse_used
from astor_rl.types import Invalid, Score


def test_a_second_try_follows_the_tests_errors(suite, suite_rows, run, golden):
    made = suite("aider-polyglot", *suite_rows["aider-polyglot"])

    def say(question, sample, turn):
        if sample == 0 and turn == 0:
            return "```python\ndef greet(name):\n    return name\n```"
        return golden(made.name, question)

    found = run(made, say, samples=2, temperature=0.5)
    assert found.value("pass@1") == 0.5
    assert found.value("pass@2") == 1.0
    assert [len(turns) for turns in found.graded[0].samples] == [2, 1]
    first, second = found.sampler.asked
    assert (first.num_generations, second.num_generations) == (2, 1)
    assert first.seed != second.seed
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert "'Ann' != 'Hello, Ann!'" in second.messages[-1]["content"]


def test_seeds_do_not_depend_on_company(suite, suite_rows, run, golden):
    def say(question, sample, turn):
        return golden("cruxeval-output", question)

    rows = suite_rows["cruxeval-output"]
    all_of_them = run(suite("cruxeval-output", *rows), say)
    all_of_them.file.unlink()
    last = run(suite("cruxeval-output", rows[-1]), say)
    assert last.sampler.asked[-1].seed == all_of_them.sampler.asked[-1].seed
    last.file.unlink()
    other = run(suite("cruxeval-output", rows[-1]), say, seed=1)
    assert other.sampler.asked[-1].seed != last.sampler.asked[-1].seed


def test_an_answer_gets_the_room_that_is_left(suite, suite_rows, run, golden):
    made = suite("unit-tests", *suite_rows["unit-tests"])
    length = len(made.questions[0].messages[0]["content"])
    said = lambda question, sample, turn: golden("unit-tests", question)  # noqa: E731
    found = run(made, said, max_positions=length + 7)
    assert found.sampler.asked[0].max_tokens == 7
    found.file.unlink()
    found = run(made, said, max_tokens=5)
    assert found.sampler.asked[0].max_tokens == 5
    found.file.unlink()

    found = run(made, said, max_positions=length)
    assert not found.sampler.asked
    ((turn,),) = found.graded[0].samples
    assert turn.finish_reason == TOO_LONG
    assert isinstance(turn.verdict, Score)
    assert f"prompt's {length} tokens don't fit" in turn.verdict.reason
    # It counts as failed in every figure, instead of leaving the means to the others.
    assert {name: metric.value for name, metric in found.report.metrics.items()} == {
        "compile_rate": 0,
        "pass_rate": 0,
        "line_coverage": 0,
        "branch_coverage": 0,
        "mutation_score": 0,
        "bug_detection": 0,
    }


def test_rows_that_repeat_are_reported(suite, suite_rows, run, golden):
    rows = [suite_rows["cruxeval-output"][0]] * 3
    made = suite("cruxeval-output", *rows)
    found = run(made, lambda question, sample, turn: golden(made.name, question))
    data = SuiteRows(tuple(Row(row, "o", "u") for row in rows), ("x",))
    result = suite_result(found.report, found.graded, data)
    assert result["repeated"] == 2
    assert any("2 questions repeat another one" in line for line in table({made.name: result}))


def test_what_is_in_the_file_is_not_sampled_again(suite, suite_rows, run, golden):
    made = suite("cruxeval-output", *suite_rows["cruxeval-output"])
    said = lambda question, sample, turn: golden(made.name, question)  # noqa: E731
    whole = run(made, said, samples=2, temperature=1.0, rows=2)
    text = whole.file.read_text()
    lines = text.splitlines(keepends=True)
    assert len(lines) == 6

    # Killed in the middle of a line, after one block and half of the next.
    whole.file.write_text("".join(lines[:3]) + lines[3][:40])
    rest = run(made, said, samples=2, temperature=1.0, rows=2)
    assert [request.seed for request in rest.sampler.asked] == [
        request.seed for request in whole.sampler.asked[1:]
    ]
    assert whole.file.read_text() == text
    assert rest.report == whole.report

    again = run(made, said, samples=2, temperature=1.0, rows=2)
    assert not again.sampler.asked
    assert again.report == whole.report


def test_a_line_cut_within_a_character_is_as_if_not_there(suite, suite_rows, run, golden):
    made = suite("cruxeval-output", *suite_rows["cruxeval-output"])
    said = lambda question, sample, turn: f"\u00e9 \U0001f642 \ud800 {turn}"  # noqa: E731
    whole = run(made, said, rows=1)
    data = whole.file.read_bytes()
    whole.file.write_bytes(data[: data.rindex("\U0001f642".encode()) + 2])
    rest = run(made, said, rows=1)
    assert len(rest.sampler.asked) == 1
    assert whole.file.read_bytes() == data


def test_samples_of_other_data_are_refused(suite, suite_rows, run, golden):
    rows = suite_rows["cruxeval-output"]
    said = lambda question, sample, turn: golden("cruxeval-output", question)  # noqa: E731
    run(suite("cruxeval-output", *rows), said)
    with pytest.raises(StateError, match="other data"):
        run(suite("cruxeval-output", *reversed(rows)), said)


def test_half_a_character_survives_the_file(suite, suite_rows, run):
    made = suite("commit-messages", *suite_rows["commit-messages"])
    say = lambda question, sample, turn: "\ud83d and \u2028 more"  # noqa: E731
    found = run(made, say)
    read = SampleFile(found.file).read(made.questions, 1)
    assert read[0].samples[0][0].text == "\ud83d and \u2028 more"
    assert run(made, say).report == found.report


def test_a_second_try_that_cannot_be_asked_for_is_no_failed_one(
    suite, suite_rows, run, monkeypatch
):
    made = suite("aider-polyglot", *suite_rows["aider-polyglot"])

    async def broken(answer: Answer) -> str:
        raise ValueError("no tests")

    monkeypatch.setattr(made, "follow_up", broken)
    found = run(made, lambda question, sample, turn: "```python\nx = 1\n```")
    (read,) = SampleFile(found.file).read(made.questions, 1)[0].samples
    assert [turn.finish_reason for turn in read] == ["stop", "not asked"]
    assert isinstance(read[1].verdict, Invalid)
    assert found.report.metrics["pass@2"].examples == 0
    assert found.report.notes[1].startswith("samples whose second try could not be judged")


def test_half_a_character_in_what_tests_say_reaches_no_tokenizer(suite, suite_rows, run):
    made = suite("aider-polyglot", *suite_rows["aider-polyglot"])
    raising = '```python\ndef greet(name):\n    raise ValueError("bad \\ud83d")\n```'
    found = run(made, lambda question, sample, turn: raising)
    said = [message["content"] for one in found.sampler.asked for message in one.messages]
    assert any("ValueError: bad ?" in each for each in said)
    assert all(each.encode() for each in said)


def test_a_folder_is_for_one_evaluation(tmp_path: Path):
    folder = tmp_path / "out"
    with (
        EvaluationFolder(folder, {"seed": 1, "deep": {"a": 0.5}}, resume=False),
        pytest.raises(StateError, match="in use by process"),
    ):
        EvaluationFolder(folder, {"seed": 1}, resume=True)
    with pytest.raises(StateError, match="holds an evaluation already; give --resume"):
        refuse_used(folder, resume=False)
    with pytest.raises(StateError, match=r"other settings: deep\.a: 0\.5 -> 0\.25; give another"):
        EvaluationFolder(folder, {"seed": 1, "deep": {"a": 0.25}}, resume=True)
    with EvaluationFolder(folder, {"seed": 1, "deep": {"a": 0.5}}, resume=True) as opened:
        assert json.loads(opened.save({"x": float("nan")}).read_text()) == {"x": None}


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_nothing_had_been(
    reading_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [{"diff": f"-{n}\n+{n + 1}", "message": f"Raise {n} by one"} for n in range(24)]
    data = tmp_path / "commits.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def asked(out: Path, *more: str) -> list[str]:
        return [
            *("eval", str(reading_model), "--plain", "--output", str(out), *more),
            *("--suite", "commit-messages", "--data", f"commit-messages={data}"),
            *("--samples", "2", "--temperature", "1", "--max-tokens", "40"),
            *("--set", "torch_threads=1", "--set", "rollout.max_rows=4"),
            *("--set", "rollout.backend=transformers"),
        ]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    samples = cut / "commit-messages" / "samples.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "astor_rl", *asked(cut)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (samples.exists() and samples.stat().st_size > 4000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = samples.read_text().splitlines()
    assert 0 < len(before) < 48, "it must be killed in the middle"

    assert run_command(asked(cut)) == 1
    assert "holds an evaluation already" in capsys.readouterr().err
    assert run_command(asked(cut, "--resume")) == 0
    assert run_command(asked(whole)) == 0
    for name in ("results.json", "settings.json", "commit-messages/samples.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
