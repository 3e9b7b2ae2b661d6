"""The published rows: every reference answer is right, and metrics have their golden values."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import Answer, Graded, Suite, Turn
from astor_rl.evaluate.suites.commit_messages import CommitMessageSuite
from astor_rl.evaluate.suites.data import load_rows
from astor_rl.evaluate.suites.registry import Surroundings, make_suite
from astor_rl.tasks.metrics.wordnet import find_wordnet
from astor_rl.types import Score

pytestmark = pytest.mark.shared

COUNTS = {
    "cruxeval-input": 800,
    "cruxeval-output": 800,
    "humaneval": 164,
    "mbpp": 500,
    "aider-polyglot": 34,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_references_are_right(name, shared_data: Path, pool, golden):
    rows = load_rows(name, [], shared_data, pool).rows
    if name == "aider-polyglot":
        rows = tuple(row for row in rows if row.fields["language"] == "python")
    suite = make_suite(name, rows, Surroundings(pool), list)
    assert len(suite.questions) == COUNTS[name]
    verdicts = settled(
        suite, [Answer(question, golden(name, question)) for question in suite.questions]
    )
    assert [verdict for verdict in verdicts if verdict.outcome != 1] == []


def settled(suite: Suite, answers: list[Answer]) -> list[Score]:
    """Verdicts; a deadline on the wall clock is met by trying again, as the machine may be busy."""
    verdicts = asyncio.run(suite.judge(answers))
    for _ in range(5):
        late = [n for n, verdict in enumerate(verdicts) if "timeout" in verdict.reason]
        again = asyncio.run(suite.judge([answers[n] for n in late])) if late else []
        for place, verdict in zip(late, again, strict=True):
            verdicts[place] = verdict
    return verdicts


@pytest.mark.slow
def test_commit_metrics_have_their_golden_values(shared_data: Path):
    """shared/data/SOURCES.md; B-Moses 16.42 is also the published figure of NNGen."""
    if find_wordnet() is None:
        pytest.skip("METEOR's golden value needs WordNet")
    file = shared_data / "commit_message.metric_fixture.nngen_predictions.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line) for line in lines]
    rows = [
        Row({"diff": f"+{n}", "message": pair["reference"]}, pair["id"], pair["id"])
        for n, pair in enumerate(pairs)
    ]
    suite = CommitMessageSuite(rows)
    answers = [
        Answer(question, pair["prediction"])
        for question, pair in zip(suite.questions, pairs, strict=True)
    ]
    verdicts = asyncio.run(suite.judge(answers))
    graded = [
        Graded(answer.question, ((Turn(answer.text, "stop", verdict),),))
        for answer, verdict in zip(answers, verdicts, strict=True)
    ]
    found = {name: 100 * metric.value for name, metric in suite.report(graded).metrics.items()}
    assert found == pytest.approx(
        {
            "b_norm": 23.0375,
            "b_moses": 16.4169,
            "b_cc": 16.7708,
            "rouge1": 27.4316,
            "rouge2": 15.7339,
            "rougeL": 26.9963,
            "meteor": 26.1789,
        },
        abs=6e-5,
    )
