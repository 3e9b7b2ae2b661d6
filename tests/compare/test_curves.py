"""Tokens to a score, forgetting, and which looks count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from astor_rl.compare.curves import at_step, common_looks, forgotten, reached, tokens_to
from astor_rl.compare.entrants import Entrant
from astor_rl.compare.results import Point, Result
from astor_rl.compare.spec import ArmConfig


def curve(*values: float) -> tuple[Point, ...]:
    """A look every ten steps of 100 tokens."""
    return tuple(
        Point(10 * i, 1000 * i, {"io": value, "code": value}) for i, value in enumerate(values)
    )


def result(*values: float) -> Result:
    test = {"io": values[-1], "code": values[-1]}
    return Result(test, {}, {}, curve(*values), 10 * (len(values) - 1), 1000, 1000)


def runs(name: str, *curves: tuple[float, ...]) -> Entrant:
    results = {seed: result(*values) for seed, values in enumerate(curves)}
    return Entrant(name, ArmConfig(name=name), "joint", "run", None, results, {})


def test_tokens_to_a_score_are_interpolated_and_censored():
    assert tokens_to(curve(0.1, 0.3, 0.5), 0.4) == pytest.approx(1500)
    assert tokens_to(curve(0.1, 0.5, 0.2), 0.5) == pytest.approx(1000)
    assert tokens_to(curve(0.1, 0.3), 0.1) == 0
    assert tokens_to(curve(0.1, 0.3), 0.31) is None


def test_forgetting_is_from_the_peak_of_the_looks_that_all_have():
    looks = (0, 10, 20)
    assert forgotten(result(0.1, 0.5, 0.4), "io", looks) == pytest.approx(0.1)
    assert forgotten(result(0.1, 0.2, 0.4), "io", looks) == 0
    # The peak at step 30 is one that shorter runs had no chance of.
    assert forgotten(result(0.1, 0.5, 0.4, 0.9, 0.4), "io", looks) == pytest.approx(0.1)
    assert forgotten(result(0.1, 0.2, 0.1, 0.9, 0.4), "io", looks) == 0
    assert at_step(result(0.1, 0.5, 0.4), 10) == 0.5
    assert at_step(result(0.1, 0.5, 0.4), 15) is None


def test_the_looks_that_all_have():
    assert common_looks([runs("a", (0.1, 0.2)), runs("b", (0.1,), (0.1, 0.2, 0.3))]) == (0,)
    assert common_looks([runs("a", (0.1, 0.2)), runs("b", (0.1, 0.2, 0.3))]) == (0, 10)
    assert common_looks([]) == ()


def test_the_target_is_what_joint_scores_on_average_and_never_counts_as_last():
    # Joint ends at 0.5 on average; astor is there after 1000 and 1500 tokens, and never.
    joint = runs("joint", (0.1, 0.3, 0.4), (0.1, 0.5, 0.5), (0.1, 0.2, 0.6))
    timing = reached(runs("astor", (0.1, 0.5, 0.6), (0.1, 0.4, 0.6), (0.1, 0.2, 0.3)), joint)
    assert timing is not None
    assert timing.target == pytest.approx(0.5)
    assert (timing.times, timing.seeds) == (2, 3)
    assert timing.median == pytest.approx(1500)
    # Joint is no exception: one of its runs never gets there.
    own = reached(joint, joint)
    assert own is not None
    assert (own.times, own.seeds) == (2, 3)
    assert own.median == pytest.approx(1750)


def test_most_never_is_never():
    timing = reached(runs("astor", (0.1, 0.4), (0.1, 0.6)), runs("joint", (0.1, 0.5), (0.1, 0.5)))
    assert timing is not None
    assert (timing.times, timing.seeds, timing.median) == (1, 2, None)


def test_nothing_is_reached_without_a_seed_in_common():
    assert reached(runs("astor"), runs("joint", (0.1, 0.5))) is None


@pytest.mark.parametrize("kind", ["merge", "specialist", "best"])
def test_only_runs_are_timed(kind: Any):
    """A merged model was never on the way: that is not the same as never having got there."""
    joint = runs("joint", (0.1, 0.5))
    assert reached(replace(runs("other", (0.1, 0.6)), kind=kind), joint) is None
