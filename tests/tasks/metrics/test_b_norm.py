from __future__ import annotations

import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.tasks.metrics.b_norm import b_norm, tokenize

TEXTS = st.text(st.sampled_from("ab c.,-1_é\n"), max_size=30)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Fix Bug", ["fix", "bug"]),
        ("don't", ["don", "'", "t"]),
        ("v1.2", ["v1", ".", "2"]),
        ("a_b c-d", ["a", "_", "b", "c", "-", "d"]),
        ("", []),
    ],
)
def test_tokens(text, tokens):
    assert list(tokenize(text)) == tokens


def test_closed_forms():
    # p1 = 2/3, p2 = (1+1)/(2+1), p3 = (0+1)/(1+1), p4 = (0+1)/(0+1); no brevity penalty.
    expected = (2 / 3 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert b_norm("a b x", "a b c") == pytest.approx(expected)
    # A prefix: every n-gram is right, and only brevity costs: exp(1 - (4+1)/(2+1)).
    assert b_norm("a b", "a b c d") == pytest.approx(math.exp(1 - 5 / 3))
    # Repetition is clipped: p1 = 1/4, p2 = 1/4, p3 = 1/3, p4 = 1/2.
    assert b_norm("a a a a", "a") == pytest.approx((1 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** (1 / 4))
    assert b_norm("x", "a b") == 0
    assert b_norm("", "a") == 0


@given(TEXTS, TEXTS)
def test_range_and_case(hypothesis, reference):
    value = b_norm(hypothesis, reference)
    assert 0 <= value <= 1
    assert value == b_norm(hypothesis.upper(), reference)


@given(TEXTS.filter(str.strip))
def test_a_text_against_itself_is_one(text):
    assert b_norm(text, text) == 1


@pytest.mark.shared
def test_the_published_predictions(shared_data):
    path = shared_data / "commit_message.metric_fixture.nngen_predictions.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    values = [b_norm(row["prediction"], row["reference"]) for row in rows]
    assert 100 * sum(values) / len(values) == pytest.approx(23.0375, abs=5e-5)
