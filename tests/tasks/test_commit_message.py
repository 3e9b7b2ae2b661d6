from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import ConfigError, DataError
from astor_rl.tasks.base import Task
from astor_rl.tasks.commit_message import CommitMessageTask
from astor_rl.tasks.validation import rollout_of

DIFF = "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-old = 1\n+new = 2"
ROW = {"diff": DIFF, "subject": "Fix the parser", "body": "Because.", "id": "me/repo@1"}
TASK = CommitMessageTask(synonyms="off")


def example(**changes):
    return TASK.example({**ROW, **changes}, origin="rows:1")


def score(text, task=TASK, **changes):
    (found,) = asyncio.run(task.score([(example(**changes), rollout_of(text))]))
    return found


def test_it_is_a_task():
    assert isinstance(TASK, Task)
    assert TASK.verdict == "unforgeable"
    assert asyncio.run(TASK.respond(example(), [])) is None


def test_an_example():
    found = example()
    assert dict(found.fields) == {"diff": DIFF, "subject": "Fix the parser"}
    assert found.unit == "me/repo@1"
    assert example(body="Other.", id="x").key == found.key
    assert example(subject="Fix a parser").key != found.key
    assert TASK.example(ROW, origin="rows:1", unit="u").unit == "u"


def test_a_message_gives_the_subject_where_there_is_none():
    row = {"diff": DIFF, "message": "Fix it\n\nLong story.", "subject": None}
    assert TASK.answer(TASK.example(row, origin="r")) == "Fix it"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"subject": "x"}, "'diff' is missing"),
        ({"diff": DIFF}, "'message' is missing"),
        ({"diff": 3, "subject": "x"}, "'diff' is int"),
        ({"diff": DIFF, "subject": ["x"]}, "'subject' is list"),
        ({"diff": " \n", "subject": "x"}, "'diff' is blank"),
        ({"diff": DIFF, "subject": "\n "}, "subject is blank"),
        ({"diff": "Add a test", "subject": "diff --git a/x b/x\n"}, "two columns swapped"),
    ],
)
def test_bad_rows_name_their_origin(row, words):
    with pytest.raises(DataError, match=f"rows:7.*{words}"):
        TASK.example(row, origin="rows:7")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_char": 1}, "unknown option 'max_char'"),
        ({"max_chars": 0}, "'max_chars'.* is 0; it must be >= 1"),
        ({"max_diff_chars": "9"}, "'max_diff_chars'.* must be int"),
        ({"synonyms": "yes"}, "auto, required, off"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        CommitMessageTask.from_config(options, None)


def test_the_prompt_shows_the_diff_and_not_the_message():
    (message,) = TASK.prompt(example(subject="Unguessable words"))
    assert message["role"] == "user"
    assert f"```diff\n{DIFF}\n```" in message["content"]
    assert "72 characters" in message["content"]
    assert "Unguessable" not in message["content"]
    assert "left out" not in message["content"]


def test_a_long_diff_is_shortened_and_the_prompt_says_so():
    task = CommitMessageTask.from_config({"max_diff_chars": 90, "synonyms": "off"}, None)
    (message,) = task.prompt(example(diff=DIFF + "\n@@ -9 +9 @@\n+" + "x" * 90))
    assert "+new = 2\n```\n(1 of 2 hunks left out)" in message["content"]
    assert "xxx" not in message["content"]


def test_a_diff_with_fences_gets_a_longer_one():
    (message,) = TASK.prompt(example(diff=DIFF + "\n+```\n+````"))
    assert message["content"].startswith("`````diff\n")


def test_the_outcome_is_the_mean_of_three_metrics():
    found = score("Fix parser")
    names = ("b_norm", "rouge_l", "meteor")
    assert found.outcome == pytest.approx(sum(found.metrics[name] for name in names) / 3)
    assert found.metrics["rouge_l"] == pytest.approx(4 / 5)
    assert found.metrics["exact"] == 0
    assert found.metrics["meteor_synonyms"] == 0


def test_identical_text_reaches_the_ceiling_which_is_below_one():
    assert TASK.ceiling(example()) == pytest.approx((3 - 0.5 / 3**3) / 3)
    assert score("Fix the parser").outcome == TASK.ceiling(example())
    assert score("fix the Parser").outcome == TASK.ceiling(example())
    assert score("Fix the parser").metrics["exact"] == 1


def test_only_the_first_line_counts_and_more_cost_format():
    one, two = score("Fix the parser"), score("\n Fix the parser \n\nFix the parser again")
    assert one.outcome == two.outcome
    assert (one.format, two.format) == (1, 0.75)
    assert two.reason == "not one_line"
    assert score("Something\nFix the parser").outcome < 0.1


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("Fix the parser", 0),
        ("Fix `parse` and 'tokens'", 0),
        ("'tis it", 0),
        ("Fix the parser.", 1),
        ("x" * 73, 1),
        ('"Fix the parser"', 1),
        ("`Fix the parser`", 1),
        ("\N{LEFT DOUBLE QUOTATION MARK}Fix it\N{RIGHT DOUBLE QUOTATION MARK}", 1),
        ("- Fix the parser", 1),
        ("# Fix", 1),
        ("1. Fix", 1),
        ("**Fix**", 1),
        ("Commit message: Fix it", 1),
        ("Subject: Fix it", 1),
        ("message handling: fix it", 0),
        ("```\nFix the parser\n```", 2),
        ("Commit message: Fix it.\n\nMore.", 3),
    ],
)
def test_format_rules(text, broken):
    assert score(text).format == 1 - broken / 4


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_completion_has_nothing(text):
    found = score(text)
    assert (found.outcome, found.format, found.reason) == (0, 0, "empty")


def test_rules_that_the_reference_breaks_are_waived():
    subject = "- " + "word " * 20 + "."
    assert score(subject, subject=subject).format == 1
    assert score("short.", subject=subject).format == 1
    assert score("two\nlines", subject=subject).format == 0.75


def test_repeating_the_reference_does_not_pay():
    outcomes = [score(" ".join(["Fix the parser"] * times)).outcome for times in (1, 2, 4, 20)]
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes[1] < 0.75 * outcomes[0]
    assert outcomes[3] < 0.2


def test_a_bag_of_words_does_not_pay():
    bag = "Fix the parser " + "add remove update change test docs file code bug error " * 5
    assert score(bag).outcome < 0.35


def test_identical_completions_are_judged_once():
    task = CommitMessageTask(synonyms="off")
    first, other = example(), example(subject="Fix a parser")
    pairs = [(e, rollout_of(t)) for e in (first, other) for t in ("a", "b", "a")]
    found = asyncio.run(task.score(pairs))
    assert found[0] is found[2]
    assert task._similarity.cache_info().misses == 4
    assert asyncio.run(task.score([])) == []


def test_the_event_loop_is_free_while_scoring():
    ticks = []

    async def run():
        async def tick():
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        pairs = [(example(), rollout_of(f"Fix the parser {n}")) for n in range(50)]
        await TASK.score(pairs)
        ticking.cancel()

    asyncio.run(run())
    assert len(ticks) > 1


SUBJECTS = st.one_of(
    st.text(st.sampled_from("aB fix.,:-`'1Δ\n"), max_size=40),
    st.lists(st.sampled_from(["Fix", "add", "the", "bug", "fix"]), max_size=9).map(" ".join),
)


@given(SUBJECTS.filter(str.strip), SUBJECTS)
def test_nothing_exceeds_the_ceiling(subject, text):
    ceiling = TASK.ceiling(example(subject=subject))
    gold = score(TASK.answer(example(subject=subject)), subject=subject)
    other = score(text, subject=subject)
    assert (gold.outcome, gold.format) == (ceiling, 1)
    assert other.outcome <= ceiling
    for variant in TASK.broken(example(subject=subject)).values():
        assert score(variant, subject=subject).outcome <= ceiling


@pytest.mark.parametrize("subject", ["Fix bug", "update file", "Typo", "new = 2", "go go go"])
def test_broken_answers_are_told_from_the_reference(subject):
    report = asyncio.run(TASK.validate([example(subject=subject)]))
    assert report.ok
    assert {"empty", "other_language"} <= set(TASK.broken(example(subject=subject)))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["heldout.python_repos", "heldout.nngen_java_test"])
def test_real_commits(shared_data, name):
    path = shared_data / f"commit_message.{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][::5]
    examples = [TASK.example(row, origin=f"{name}:{row['id']}") for row in rows]
    assert asyncio.run(TASK.validate(examples)).ok
    golds = [(found, rollout_of(TASK.answer(found))) for found in examples]
    assert {found.format for found in asyncio.run(TASK.score(golds))} == {1}
