from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.tasks.metrics.rouge import KINDS, Rouge

WORDS = st.lists(st.sampled_from(["fix", "add", "bug", "test", "the", "Δ"]), max_size=8).map(
    " ".join
)
ROUGE = Rouge(KINDS)


def test_closed_forms():
    scores = ROUGE.f1("fix the bug", "fix a bug now")
    # Unigrams and longest common subsequence: 2 of 3 and 2 of 4; no bigram in common.
    assert scores["rouge1"] == pytest.approx(4 / 7)
    assert scores["rougeL"] == pytest.approx(4 / 7)
    assert scores["rouge2"] == 0
    assert ROUGE.f1("bug fix", "fix bug")["rougeL"] == pytest.approx(1 / 2)


@given(WORDS, WORDS)
def test_range_and_symmetry(one, other):
    scores = ROUGE.f1(one, other)
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores == pytest.approx(ROUGE.f1(other, one))


@given(WORDS)
def test_a_text_against_itself(text):
    assert ROUGE.f1(text, text)["rougeL"] == (1 if any(c.isascii() for c in text.split()) else 0)


@pytest.mark.shared
def test_the_published_predictions(shared_data):
    path = shared_data / "commit_message.metric_fixture.nngen_predictions.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    scores = [ROUGE.f1(row["prediction"], row["reference"]) for row in rows]
    means = [100 * sum(score[kind] for score in scores) / len(scores) for kind in KINDS]
    assert means == pytest.approx([27.4316, 15.7339, 26.9963], abs=5e-5)
