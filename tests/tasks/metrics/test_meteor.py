from __future__ import annotations

import gzip
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import DependencyError
from astor_rl.tasks.metrics import meteor, wordnet
from astor_rl.tasks.metrics.meteor import Meteor

WORDS = st.lists(st.sampled_from(["Fix", "fixed", "add", "bug", "test"]), max_size=8).map(" ".join)
PLAIN = Meteor("off")


def test_closed_forms():
    assert PLAIN("a b c d", "a b c d") == pytest.approx(1 - 0.5 / 4**3)
    # One match of two and two: F = PR / (0.9 P + 0.1 R) = 0.5, one chunk for one match.
    assert PLAIN("fix glitch", "fix bug") == pytest.approx(0.25)
    # Both words match, in two chunks.
    assert PLAIN("bug fix", "fix bug") == pytest.approx(0.5)
    # Stems match: fixed, fixes.
    assert PLAIN("fixed", "Fixes") == pytest.approx(0.5)
    assert PLAIN("", "fix") == 0
    assert PLAIN("add", "fix") == 0


def test_synonyms_count_where_wordnet_is(small_wordnet):
    metric = Meteor(wordnet_path=small_wordnet)
    assert metric.stages == ("exact", "stem", "synonym")
    assert metric.wordnet == f"WordNet 3.0 in {small_wordnet}"
    assert metric("fix glitch", "fix bug") == pytest.approx(1 - 0.5 / 2**3)
    assert PLAIN.stages == ("exact", "stem")
    assert PLAIN.wordnet == ""


def test_synonyms_are_of_words_and_not_of_their_stems(small_wordnet):
    """The stem of "issue" is "issu", which WordNet doesn't know."""
    metric = Meteor(wordnet_path=small_wordnet)
    assert metric("fix issue", "fix bug") == pytest.approx(1 - 0.5 / 2**3)
    assert metric("fix bug", "fix issue") == pytest.approx(1 - 0.5 / 2**3)
    # A word that has matched is used up: one match of two and two, in one chunk.
    assert metric("issue issue", "issue faster") == pytest.approx(0.25)


def test_a_required_wordnet_must_be_found(monkeypatch):
    monkeypatch.setattr(meteor, "find_wordnet", lambda path: None)
    assert Meteor("auto").stages == ("exact", "stem")
    with pytest.raises(DependencyError, match="install wordnet-base"):
        Meteor("required")


def test_the_stages_are_logged_once(caplog, small_wordnet):
    meteor._announce.cache_clear()
    with caplog.at_level(logging.INFO, meteor.__name__):
        for _ in range(3):
            Meteor(wordnet_path=small_wordnet)
    (record,) = caplog.records
    assert "exact + stem + synonym" in record.message


@given(WORDS, WORDS)
def test_range(hypothesis, reference):
    assert 0 <= PLAIN(hypothesis, reference) < 1


@given(WORDS.filter(bool), WORDS)
def test_nothing_scores_more_than_the_reference_itself(reference, hypothesis):
    most = PLAIN(reference, reference)
    assert most == pytest.approx(1 - 0.5 / len(reference.split()) ** 3)
    assert PLAIN(hypothesis, reference) <= most


@pytest.mark.shared
@pytest.mark.parametrize(("synonyms", "golden"), [("off", 25.609), ("required", 26.1789)])
def test_the_published_predictions(shared_data, synonyms, golden):
    if synonyms == "required" and wordnet.find_wordnet() is None:
        pytest.skip("no WordNet on this machine (wordnet-base, wordnet-sense-index)")
    metric = Meteor(synonyms)
    path = shared_data / "commit_message.metric_fixture.nngen_predictions.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    values = [metric(row["prediction"], row["reference"]) for row in rows]
    assert 100 * sum(values) / len(values) == pytest.approx(golden, abs=5e-4)
