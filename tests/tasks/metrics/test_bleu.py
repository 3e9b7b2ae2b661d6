from __future__ import annotations

import gzip
import json

import pytest

from astor_rl.tasks.metrics.bleu import b_moses, sentence_bleu


def test_corpus_bleu_closed_form():
    # n-grams right: 4 of 5, 3 of 4, 2 of 3, 1 of 2; equal lengths.
    expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
    assert b_moses(["a b c d x"], ["a b c d e"]) == pytest.approx(expected)
    assert b_moses(["a b c d"], ["a b c d"]) == 1
    assert b_moses(["Fix it ."], ["a b c d"]) == 0


def test_sentence_bleu_takes_empty_texts():
    assert sentence_bleu(["", "a b c d e f"], ["a", "a b c d e f"], smoothing=4) == 0.5


@pytest.mark.parametrize("metric", [b_moses, sentence_bleu])
@pytest.mark.parametrize("texts", [([], []), (["a"], ["a", "b"])])
def test_texts_must_pair_up(metric, texts):
    with pytest.raises(ValueError, match="as many of each"):
        metric(*texts)


@pytest.mark.shared
def test_the_published_predictions(shared_data):
    path = shared_data / "commit_message.metric_fixture.nngen_predictions.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pair = [row["prediction"] for row in rows], [row["reference"] for row in rows]
    assert 100 * b_moses(*pair) == pytest.approx(16.4169, abs=5e-5)
    assert 100 * sentence_bleu(*pair) == pytest.approx(16.7708, abs=5e-5)
    assert 100 * sentence_bleu(*pair, smoothing=4) == pytest.approx(13.1694, abs=5e-5)
