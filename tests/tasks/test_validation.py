from __future__ import annotations

import asyncio

import pytest

from astor_rl.errors import ConfigError, DataError
from astor_rl.tasks.from_reward import from_reward
from astor_rl.tasks.validation import (
    defaults_of,
    optional,
    read_options,
    require,
    require_choice,
    require_texts,
    rollout_of,
    validate,
)


def test_a_field_is_returned_as_it_is():
    assert require({"a": [1]}, "a", list, "rows:1") == [1]
    assert require({"a": False}, "a", bool, "rows:1") is False
    assert optional({"a": None}, "a", str, "rows:1", "default") == "default"
    assert optional({}, "a", str, "rows:1", "default") == "default"
    assert optional({"a": "x"}, "a", str, "rows:1", "default") == "x"
    assert require_texts({"a": ["x", "y"]}, "a", "rows:1") == ("x", "y")


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ({}, str, ["rows:7", "'a'", "missing", "str"]),
        ({"a": None}, str, ["rows:7", "'a'", "NoneType", "str"]),
        ({"a": 1}, str, ["rows:7", "'a'", "int", "str"]),
        ({"a": True}, int, ["rows:7", "'a'", "bool", "int"]),
    ],
)
def test_a_bad_field_is_named_with_its_origin(row, kind, words):
    with pytest.raises(DataError) as error:
        require(row, "a", kind, "rows:7")
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [[], "xy", ["x", 1]])
def test_a_list_of_texts_must_be_one(value):
    with pytest.raises(DataError, match=r"rows:7.*'a"):
        require_texts({"a": value}, "a", "rows:7")


def test_an_optional_field_of_another_type_is_an_error():
    with pytest.raises(DataError, match=r"rows:7.*'a'"):
        optional({"a": 1}, "a", str, "rows:7", "")


def test_options_over_defaults():
    defaults = {"turns": 1, "timeout_s": 4.0, "mode": "x", "flag": False}
    got = read_options("kind", {"timeout_s": 2, "flag": True}, defaults)
    assert got == {"turns": 1, "timeout_s": 2.0, "mode": "x", "flag": True}
    assert type(got["timeout_s"]) is float


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"turn": 2}, ["'turn'", "'kind'", "flag, turns"]),
        ({"turns": "2"}, ["'turns'", "'2'", "int"]),
        ({"turns": True}, ["'turns'", "True", "int"]),
        ({"turns": 1.5}, ["'turns'", "1.5", "int"]),
        ({"flag": 1}, ["'flag'", "1", "bool"]),
    ],
)
def test_a_bad_option_is_named(config, words):
    with pytest.raises(ConfigError) as error:
        read_options("kind", config, {"turns": 1, "flag": False})
    assert all(word in str(error.value) for word in words)


class Spelled:
    def __init__(self, sandbox, *, turns: int = 1, mode: str = "x") -> None: ...


class Unfinished:
    def __init__(self, sandbox, *, turns: int) -> None: ...


def test_the_options_of_a_task_are_its_keywords():
    assert defaults_of(Spelled) == {"turns": 1, "mode": "x"}
    with pytest.raises(TypeError, match="'turns' of Unfinished has no default"):
        defaults_of(Unfinished)


def test_choices():
    require_choice("kind", "mode", "a", ("a", "b"))
    with pytest.raises(ConfigError, match=r"'mode'.*'kind'.*'c'.*a, b"):
        require_choice("kind", "mode", "c", ("a", "b"))


def test_a_verifier_that_tells_right_from_wrong_is_ok_and_others_are_reported():
    rewards = {"good": 1.0, "poor": 0.25, "": 0.0}

    def reward(prompts, completions, **columns):
        return [rewards.get(text) for text in completions]

    def lenient(prompts, completions, **columns):
        return [1.0 for _ in completions]

    rows = [{"prompt": "?", "gold": gold} for gold in ("good", "poor", "unknown")]

    def report(function, rows):
        task = from_reward(function, answer_column="gold")
        examples = [task.example(row, origin=f"rows:{n}") for n, row in enumerate(rows)]
        return asyncio.run(validate(task, examples))

    assert report(reward, rows[:1]).ok
    found = report(reward, rows)
    assert not found.ok
    assert found.checked == 3
    assert found.gold_below_ceiling == (("rows:1", 0.25, ""),)
    assert [origin for origin, _ in found.invalid] == ["rows:2"]
    assert found.broken_at_ceiling == ()
    assert report(lenient, rows[:1]).broken_at_ceiling == (("rows:0", "empty", 1.0),)


def test_large_sets_are_scored_in_batches_without_losing_any():
    sizes = []

    def reward(prompts, completions, **columns):
        sizes.append(len(completions))
        return [
            float(text == gold) for text, gold in zip(completions, columns["gold"], strict=True)
        ]

    task = from_reward(reward, answer_column="gold")
    examples = [task.example({"prompt": "?", "gold": str(n)}, origin=f"r:{n}") for n in range(700)]
    report = asyncio.run(validate(task, examples))
    assert report.ok
    assert report.checked == 700
    assert sum(sizes) == 1400
    assert max(sizes) <= 512


def test_a_rollout_of_a_text_is_complete():
    rollout = rollout_of("x")
    assert (rollout.text, rollout.truncated) == ("x", False)
