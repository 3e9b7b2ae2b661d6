"""Examples as TRL's rows."""

from __future__ import annotations

import pytest

from astor_rl.engines.trl.data import COLUMN, Library, TaskData
from astor_rl.errors import ConfigError, DataError
from astor_rl.tasks.from_reward import from_reward


def test_rows_become_examples_once_each(guest):
    rows = [{"prompt": "a", "letter": "x"}, {"prompt": "b", "letter": "x"}] * 2
    data = TaskData.from_rows("some", guest.task(), rows, ratio=2.0, beta=0.1)
    assert [example.fields["prompt"] for example in data.examples] == ["a", "b"]
    assert (data.ratio, data.beta) == (2.0, 0.1)
    with pytest.raises(DataError, match="some: row 1"):
        TaskData.from_rows("some", guest.task(), [rows[0], {"letter": "x"}])


def test_what_a_source_keeps_beside_a_row_is_kept_beside_it_here(guest):
    rows = [
        {"prompt": "a", "letter": "x", "difficulty": 0.25, "unit": "one"},
        {"prompt": "a", "letter": "x", "difficulty": 0.75, "unit": "two"},
        {"prompt": "b", "letter": "x"},
        {"prompt": "c", "letter": "x", "difficulty": "hard", "unit": 7},
    ]
    first, second, third = TaskData.from_rows("some", guest.task(), rows).examples
    plain = TaskData.from_rows("some", guest.task(), [{"prompt": "a", "letter": "x"}]).examples[0]
    assert first.key == plain.key
    assert (first.unit, first.difficulty) == ("one", 0.25)
    assert second.difficulty is not None
    assert 0 < second.difficulty < 1
    assert third.fields["difficulty"] == "hard"
    assert third.fields["unit"] == 7


def test_a_row_says_what_it_is(guest):
    data = guest.data("first")
    library = Library([data])
    key = data.examples[0].key
    assert library.row("first", key) == {
        "prompt": [{"role": "user", "content": "say one"}],
        COLUMN: ["first", key],
    }


def test_text_prompts_are_one_message(guest):
    talk = [{"role": "system", "content": "Be short"}, {"role": "user", "content": "Hi"}]
    task = from_reward(lambda prompts, completions, **_: [0.0] * len(prompts))
    data = TaskData.from_rows("talk", task, [{"prompt": talk}], chat=False)
    with pytest.raises(ConfigError, match="2 messages"):
        data.prompt(data.examples[0])


def test_an_epoch_is_as_long_as_the_examples(guest):
    library = Library([guest.data("first"), guest.data("second")])
    assert len(library.placeholder(6)) == 36
    assert len(library.placeholder(100)) == 100
    assert library.evaluation() is None
