"""How far units are, from files that grow, go back and tear."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from astor_rl.compare.progress import Tail, Work, describe, seconds_left
from astor_rl.compare.units import Unit
from astor_rl.report.jsonl import JsonLines


def line(step: int, tokens: int) -> str:
    return json.dumps({"step": step, "tokens/generated": tokens}) + "\n"


def test_it_follows_a_growing_file(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    tail.read()
    assert (tail.step, tail.tokens) == (0, 0)
    path.write_text(line(1, 10) + line(2, 5)[:8])  # the second is half written
    tail.read()
    assert (tail.step, tail.tokens) == (1, 10)
    path.write_text(line(1, 10) + line(2, 5) + line(3, 7))
    tail.read()
    tail.read()
    assert (tail.step, tail.tokens) == (3, 22)


@pytest.mark.parametrize("more", [0, 40])
def test_it_notices_that_a_run_went_back(tmp_path: Path, more: int):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line(step, 1000) for step in range(1, 20)))
    tail = Tail(path)
    tail.read()
    JsonLines(path).keep(lambda record: record["step"] <= 4)
    with path.open("a") as file:  # perhaps to a greater length than before
        file.writelines(line(5 + step, 1) for step in range(more))
    tail.read()
    assert (tail.step, tail.tokens) == (4 + more, 4000 + more)


def test_a_line_in_which_it_lost_its_place_starts_it_over(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, 10))
    tail = Tail(path)
    tail.read()
    with path.open("r+") as file:  # the same file with other content: what the offset meant is gone
        file.write("x" * 70 + "\n")
    tail.read()
    assert (tail.step, tail.tokens) == (0, 0)


def test_where_it_is_in_words(plan: Callable[..., dict[str, Unit]], tmp_path: Path):
    units, tail = plan(), Tail(tmp_path / "metrics.jsonl")
    assert describe(units["start/seed-0"], tail) == "start/seed-0"
    assert describe(units["joint/seed-0"], tail) == "joint/seed-0"
    (tmp_path / "metrics.jsonl").write_text(line(3, 450))
    tail.read()
    assert describe(units["joint/seed-0"], tail) == "joint/seed-0 step 3 450/1,000 tokens"


def left(
    *,
    finished: Sequence[Work] = (),
    running: Sequence[Work] = (),
    waiting: Sequence[int] = (),
    jobs: int = 2,
) -> float | None:
    to_do = [Work(0.0, 0, budget) for budget in waiting]
    return seconds_left(finished=finished, running=running, waiting=to_do, jobs=jobs)


def test_nothing_is_known_of_the_time_before_the_first_tokens():
    assert left(waiting=[10]) is None
    assert left(finished=[Work(5.0, 0, 0)], running=[Work(5.0, 0, 10)], waiting=[10]) is None


def test_time_left_is_by_tokens():
    done = [Work(20.0, 10, 10), Work(9.0, 0, 0)]  # 2 s a token; a start tells nothing
    assert left(finished=done, waiting=[10, 10, 20]) == 40  # on two jobs
    assert left(finished=done, waiting=[40, 2]) == 80  # the longest unit's own time
    assert left(finished=done) == 0
    assert left(finished=done, running=[Work(50.0, 4, 10)], jobs=1) == 12


def test_evaluations_after_the_last_token_are_time_too():
    done = [Work(20.0, 10, 10)]
    assert left(finished=done, running=[Work(15.0, 10, 10)], jobs=1) == 5
    assert left(finished=done, running=[Work(30.0, 10, 10)], jobs=1) == 0


def test_running_units_tell_before_one_has_finished():
    assert left(running=[Work(10.0, 5, 20)], waiting=[20], jobs=1) == 70
