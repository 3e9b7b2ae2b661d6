"""The warm-up's batches: balanced, reproducible, whole epochs."""

from __future__ import annotations

from collections import Counter

import pytest

from astor_rl.engines.local.supervised import Batches, Demonstration


def demonstrations(task: str, count: int) -> list[Demonstration]:
    return [Demonstration(task, (1, place), (2,)) for place in range(count)]


@pytest.fixture
def tasks() -> dict[str, list[Demonstration]]:
    return {"a": demonstrations("a", 5), "b": demonstrations("b", 3)}


def batches(
    tasks: dict[str, list[Demonstration]], *, shuffle: bool = True, seed: int = 1
) -> Batches:
    return Batches(tasks, batch_size=4, shuffle=shuffle, seed=seed)


def test_tasks_alternate_whatever_their_sizes(tasks: dict[str, list[Demonstration]]) -> None:
    counts = Counter(one.task for step in range(30) for one in batches(tasks)[step])
    assert counts == {"a": 60, "b": 60}


def test_each_epoch_shows_every_example_once(tasks: dict[str, list[Demonstration]]) -> None:
    source = batches(tasks)
    shown = [one for step in range(15) for one in source[step] if one.task == "a"]
    for epoch in range(6):
        assert sorted(d.prompt_ids for d in shown[5 * epoch : 5 * epoch + 5]) == [
            (1, place) for place in range(5)
        ]


def test_a_step_is_a_function_of_seed_and_step(tasks: dict[str, list[Demonstration]]) -> None:
    assert batches(tasks)[7] == batches(tasks)[7]
    shows = [[batches(tasks, seed=s)[i] for i in range(8)] for s in (1, 2)]
    assert shows[0] != shows[1]


def test_unshuffled_keeps_the_given_order(tasks: dict[str, list[Demonstration]]) -> None:
    source = batches(tasks, shuffle=False)
    shown = [one.prompt_ids[1] for step in range(4) for one in source[step] if one.task == "a"]
    assert shown == [0, 1, 2, 3, 4, 0, 1, 2]
