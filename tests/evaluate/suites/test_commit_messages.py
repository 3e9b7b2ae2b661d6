"""Which line of an answer is judged, and by which words."""

from __future__ import annotations

import asyncio

import pytest

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites import commit_messages
from astor_rl.evaluate.suites.base import Answer, Graded, Turn
from astor_rl.evaluate.suites.commit_messages import CommitMessageSuite
from astor_rl.types import Score


def judged(answer: str, reference: str) -> Score:
    suite = CommitMessageSuite([Row({"diff": "+1", "message": reference}, "a", "a")])
    (verdict,) = asyncio.run(suite.judge([Answer(suite.questions[0], answer)]))
    assert isinstance(verdict, Score)
    return verdict


@pytest.mark.parametrize(
    "answer",
    [
        "Fix bug in parser\n\nIt was wrong.",
        "```\nFix bug in parser\n```",
        "```text\n\n  Fix bug in parser\n",
        '"Fix bug in parser"',
        "`Fix bug in parser`",
        "```Fix bug in parser```",
        "<think>Which bug?\nThe parser's.</think>\n\nFix bug in parser",
    ],
)
def test_the_line_that_is_meant_is_judged(answer):
    assert judged(answer, "Fix bug in parser").outcome == 1.0


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("", ""),
        ("```\n```", ""),
        ("'a' or 'b'", "'a' or 'b'"),
        ("Use `a` for `b`", "Use `a` for `b`"),
        ("`a` and `b`", "`a` and `b`"),
        ('""', '""'),
    ],
)
def test_other_answers_are_taken_as_they_are(answer, line):
    assert commit_messages._line(answer) == line


def test_tokenised_references_are_met_by_text_that_is_not():
    """Punctuation isn't a matter of spelling, in any of the metrics."""
    told = judged("Fix typo in Caches.cpp", "Fix typo in Caches . cpp").metrics
    same = judged("Fix typo in Caches . cpp", "Fix typo in Caches . cpp").metrics
    assert told == pytest.approx(same)


def test_meteor_without_synonyms_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(
        commit_messages, "Meteor", lambda mode: commit_messages_meteor("off"), raising=True
    )
    suite = CommitMessageSuite([Row({"diff": "+1", "message": "Fix bug"}, "a", "a")])
    question = suite.questions[0]
    (verdict,) = asyncio.run(suite.judge([Answer(question, "Fix bug")]))
    report = suite.report([Graded(question, ((Turn("Fix bug", "stop", verdict),),))])
    assert report.lacking == {"meteor": "without WordNet's synonyms"}


def commit_messages_meteor(mode):
    from astor_rl.tasks.metrics.meteor import Meteor

    return Meteor(mode)
