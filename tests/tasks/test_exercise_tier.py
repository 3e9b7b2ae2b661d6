from __future__ import annotations

import asyncio

import pytest

from astor_rl.errors import DataError
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.exercise_tier import without_skipped
from astor_rl.tasks.parsing import fenced
from astor_rl.tasks.validation import rollout_of

TEST = """
import unittest
from acronym import abbreviate
from words import WORDS

class AcronymTest(unittest.TestCase):
    def test_one(self):
        self.assertEqual(abbreviate(WORDS), "PNG")

    def test_two(self):
        self.assertEqual(abbreviate("a b"), "AB")
"""

ROW = {
    "id": "acronym",
    "prompt": "Convert a phrase to its acronym.",
    "entry_point": None,
    "files": {"acronym.py": "def abbreviate(words):\n    pass\n"},
    "reference": {
        "acronym.py": (
            "def abbreviate(words):\n    return ''.join(w[0] for w in words.split()).upper()\n"
        )
    },
    "support_files": {"words.py": "WORDS = 'Portable Network Graphics'\n"},
    "tests": [{"path": "acronym_test.py", "content": TEST}],
}


def make(task, **change):
    return task.example({**ROW, **change}, origin="rows:1")


def score(task, example, *codes):
    return asyncio.run(task.score([(example, rollout_of(fenced(code))) for code in codes]))


def test_the_prompt_shows_the_file_and_not_the_tests():
    task = CodeGenerationTask(tier="exercise")
    example = make(task)
    (message,) = task.prompt(example)
    assert "Convert a phrase" in message["content"]
    assert "`acronym.py`" in message["content"]
    assert "def abbreviate(words):\n    pass" in message["content"]
    assert "PNG" not in message["content"]
    assert task.answer(example).startswith("```python\ndef abbreviate(words):\n    return ''.join")


def test_validation(pool):
    task = CodeGenerationTask(pool, tier="exercise")
    report = asyncio.run(task.validate([make(task)]))
    assert report.ok, report
    assert set(task.broken(make(task))) == {"empty", "exits", "raises", "stub"}
    passing = make(task, stub_already_passes=True, files=ROW["reference"])
    assert "stub" not in task.broken(passing)


def test_tests_that_their_file_always_skips_are_no_tests(pool):
    skipped = "    @unittest.skip('extra')\n    def test_more(self):\n        self.fail()\n"
    more = [{"path": "acronym_test.py", "content": TEST + "\n" + skipped}]
    task = CodeGenerationTask(pool, tier="exercise")
    (gold,) = ROW["reference"].values()
    runtime = f"import unittest\n{gold}\n_own = abbreviate\ndef abbreviate(words):\n" + (
        "    raise unittest.SkipTest\n"
    )
    results = score(task, make(task, tests=more), gold, runtime)
    assert [r.outcome for r in results] == [1.0, 0.0]
    assert without_skipped(TEST) == TEST


def test_the_next_turn_shows_the_failed_test(pool):
    task = CodeGenerationTask(pool, tier="exercise", turns=2)
    said = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": fenced("def abbreviate(words):\n    return 'AB'")},
    ]
    (message,) = asyncio.run(task.respond(make(task), said))
    assert "test_one" in message["content"]
    assert "whole corrected file" in message["content"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": 1}, "prompt"),
        ({"files": {}}, "files"),
        ({"files": {"a.py": "", "b.py": ""}}, "files"),
        ({"files": {"a.rs": ""}}, "files"),
        ({"files": {"acronym.py": None}}, "files[acronym.py]"),
        ({"reference": {"other.py": ""}}, "reference"),
        ({"tests": []}, "tests"),
        ({"tests": ["x"]}, "tests[0]"),
        ({"tests": [{"path": "a_test.py"}]}, "content"),
        ({"tests": [{"path": "a.txt", "content": ""}]}, "tests"),
        ({"support_files": []}, "support_files"),
    ],
)
def test_a_bad_row_names_its_origin_and_field(change, field):
    with pytest.raises(DataError) as error:
        CodeGenerationTask(tier="exercise").example({**ROW, **change}, origin="file.jsonl:12")
    assert str(error.value).startswith("file.jsonl:12: ")
    assert f"'{field}'" in str(error.value)


def test_the_weaker_tier_is_never_chosen_silently():
    with pytest.raises(DataError, match="tier = 'exercise'"):
        CodeGenerationTask().example(ROW, origin="r")
