"""Every attack of the catalogue: how it ends, what it leaves, and that it works outside."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.attacks import catalogue, outside, trial
from benchmarks.attacks.catalogue import Attack
from benchmarks.attacks.traces import Traces

from astor_rl.sandbox.pool import ProcessPool

_ATTACKS = catalogue.attacks()
_CONTROLLED = [a for a in _ATTACKS if a.outside is not None or a.outside_exit is not None]


def _named(attacks: list[Attack] | tuple[Attack, ...]) -> pytest.MarkDecorator:
    ids = [f"{attack.goal}: {attack.name}" for attack in attacks]
    return pytest.mark.parametrize("attack", attacks, ids=ids)


@_named(_ATTACKS)
def test_it_ends_as_it_must_and_leaves_nothing(
    attack: Attack, attacked: ProcessPool, seen: list[Traces]
) -> None:
    _, problems = trial.tried(attack, attacked, seen[-1])
    if problems:  # what it left is its own failure, not that of all attacks after it
        seen.append(trial.baseline(attacked))
    assert problems == []


@pytest.mark.slow
@_named(_CONTROLLED)
def test_it_works_outside(attack: Attack, tmp_path: Path) -> None:
    got = outside.ends(attack, tmp_path)
    if attack.values is not None and got == list(attack.values) != list(attack.outside or ()):
        pytest.skip("this machine refuses it to everyone")
    assert got == (attack.outside_exit if attack.outside is None else list(attack.outside))


def test_there_are_many_for_every_goal() -> None:
    counts = Counter(attack.goal for attack in _ATTACKS)
    assert set(counts) == set(catalogue.GOALS)
    assert min(counts.values()) >= 15
    assert len(_ATTACKS) >= 200
    if not any(attack.machine for attack in _ATTACKS):
        return  # this processor can't run them all, and the documentation counts all
    page = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| .* \| (\d+) \|$", page, re.MULTILINE)
    assert {goal: int(count) for goal, count in rows if goal in counts} == counts


def test_each_shows_that_it_got_to_its_attack() -> None:
    assert [attack.name for attack in _ATTACKS if not attack.shown] == []
