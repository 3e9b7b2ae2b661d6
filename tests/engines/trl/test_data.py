"""Examples as TRL's rows."""

from __future__ import annotations

import pytest

from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.engines.trl.data import COLUMN, Library, TaskData
from astor_rl.errors import ConfigError, DataError
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.tasks.from_reward import from_reward


def test_rows_become_examples_once_each(guest):
    rows = [{"prompt": "a", "letter": "x"}, {"prompt": "b", "letter": "x"}] * 2
    data = TaskData.from_rows("some", guest.task(), rows, ratio=2.0, beta=0.1)
    assert [example.fields["prompt"] for example in data.examples] == ["a", "b"]
    assert (data.ratio, data.beta) == (2.0, 0.1)
    with pytest.raises(DataError, match="some: row 1"):
        TaskData.from_rows("some", guest.task(), [rows[0], {"letter": "x"}])


def test_difficulties_are_kept_beside_a_row(guest):
    rows = [
        {"prompt": "a", "letter": "x", "difficulty": 0.25},
        {"prompt": "a", "letter": "x", "difficulty": 0.75},
        {"prompt": "b", "letter": "x", "difficulty": None},
        {"prompt": "c", "letter": "x", "difficulty": "hard", "unit": "m"},
        {"prompt": "c", "letter": "x", "difficulty": "hard", "unit": "ft"},
    ]
    first, second, *others = TaskData.from_rows("some", guest.task(), rows).examples
    plain = TaskData.from_rows("some", guest.task(), [{"prompt": "a", "letter": "x"}]).examples[0]
    assert first.key == plain.key
    assert first.difficulty == 0.25
    assert second.fields == {"prompt": "b", "letter": "x"}
    assert second.difficulty is not None
    assert 0 < second.difficulty < 1
    # Words are a column, and so is a unit, whatever it measures.
    assert [(other.fields["difficulty"], other.fields["unit"]) for other in others] == [
        ("hard", "m"),
        ("hard", "ft"),
    ]


@pytest.mark.parametrize("difficulty", [5, -0.1, float("nan")])
def test_difficulties_on_another_scale_are_refused(guest, difficulty):
    rows = [{"prompt": "a", "letter": "x", "difficulty": difficulty}]
    with pytest.raises(DataError, match=r"some: row 0: difficulty is .*must be in \[0, 1\]"):
        TaskData.from_rows("some", guest.task(), rows)


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


def test_difficulties_order_a_curriculum(trainer, guest):
    rows = [
        {"prompt": f"say {number}", "letter": "e", "difficulty": number / 20}
        for number in range(20)
    ]
    options = CoordinatorOptions(
        schedule=ScheduleOptions(method="curriculum_prompts"), baseline=BaselineOptions(horizon=10)
    )
    tasks = [TaskData.from_rows("first", guest.task(), rows)]
    plan = trainer(tasks, {"options": options}).coordinator.plan(revision=0)
    easy = {example.key for example in TaskData.from_rows("", guest.task(), rows[:10]).examples}
    assert {item.key for item in plan.items} <= easy
