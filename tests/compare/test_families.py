"""The best of several arms: who is in a family, over which seeds, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from astor_rl.compare.analysis import analyse
from astor_rl.compare.entrants import Entrant
from astor_rl.compare.families import Versus, headline, versus
from astor_rl.compare.intervals import gain_interval, sidak
from astor_rl.compare.results import Result
from astor_rl.compare.spec import ArmConfig, CompareConfig, Role
from astor_rl.compare.units import Unit

Plan = Callable[..., dict[str, Unit]]
Compare = Callable[..., CompareConfig]
Finish = Callable[..., None]

OURS = (0.60, 0.62, 0.61)
ARMS: dict[str, Sequence[float]] = {
    "joint": (0.50, 0.53, 0.50),
    "sec": (0.55, 0.54, 0.57),
    "dump": (0.52, 0.50, 0.51),
}


def entrant(name: str, scores: Sequence[float], role: Role = "scheduler") -> Entrant:
    results = {
        seed: Result({"io": score}, {}, {}, (), 1, 1, 1) for seed, score in enumerate(scores)
    }
    return Entrant(name, ArmConfig(name=name), role, "run", None, results, {})


def against(arms: dict[str, Sequence[float]]) -> Versus:
    return versus(entrant("astor", OURS), [entrant(*arm) for arm in arms.items()])


def test_against_one_arm_the_interval_is_its_own():
    found = against({"joint": ARMS["joint"]})
    assert found.gain == gain_interval(OURS, ARMS["joint"])
    assert (found.arms, found.seeds, found.left_out) == (("joint",), 3, ())


def test_against_several_the_lower_end_needs_no_allowance_and_the_upper_has_one():
    found = against(ARMS).gain
    alone = [gain_interval(OURS, scores) for scores in ARMS.values()]
    together = [gain_interval(OURS, scores, level=sidak(3)) for scores in ARMS.values()]
    assert found is not None
    assert found.mean == min(gain.mean for gain in alone if gain)
    assert found.low == min(gain.low for gain in alone if gain and gain.low is not None)
    assert found.high == min(gain.high for gain in together if gain and gain.high)


def test_arms_with_fewer_seeds_are_left_out_and_have_an_interval_of_their_own_seeds():
    reference = entrant("astor", OURS)
    joint = entrant("joint", ARMS["joint"], "joint")
    sec = entrant("sec", ARMS["sec"][:2])
    found = headline(reference, [joint, sec])
    assert found["best_scheduler"].arms == ("joint",)
    assert found["best_scheduler"].left_out == ("sec",)
    every = found["every_scheduler"]
    assert (every.arms, every.seeds, every.left_out) == (("joint", "sec"), 2, ())
    assert every.gain is not None
    expected = gain_interval(OURS[:2], ARMS["sec"][:2])
    assert expected is not None
    assert every.gain.mean == expected.mean
    assert "every_scheduler" not in headline(reference, [joint, entrant("sec", ARMS["sec"])])


def test_a_score_of_zero_is_no_ratio_and_takes_the_figure_from_nobody_else():
    alone = against({"broken": (0.5, 0.5, 0.0)})
    assert alone.gain is None
    said = {"mean": None, "low": None, "high": None, "seeds": 3}
    assert alone.as_dict() == {**said, "against": ["broken"], "left_out": []}
    both = against({"broken": (0.5, 0.5, 0.0), "joint": ARMS["joint"]})
    assert both.gain == gain_interval(OURS, ARMS["joint"])
    assert (both.arms, both.left_out) == (("joint",), ("broken",))


def test_specialists_of_both_budgets_are_one_family(plan: Plan, finish: Finish, compare: Compare):
    """With fewer seeds of one budget, the other stays: the figure does not jump on the way."""
    share = {"name": "share", "kind": "specialists", "budget": "share"}
    full = {"name": "full", "kind": "specialists"}
    arms = [{"name": "astor"}, share, full]
    units = plan(arms=arms, seeds=[0, 1])
    for unit in units.values():
        if unit.arm != "full" or unit.seed == 0:
            finish(unit, {"io": 0.5, "code": 0.5})
    found = analyse(compare(arms=arms), list(units.values())).headline["best_specialist"]
    assert (found.arms, found.seeds, found.left_out) == (("share",), 2, ("full",))


@pytest.mark.parametrize("seeds", [0, 1])
def test_without_an_interval(seeds: int):
    found = against({"joint": ARMS["joint"][:seeds]})
    assert (found.gain is None) == (seeds == 0)
    assert found.seeds == seeds
    if found.gain is not None:
        assert found.gain.low is None
