"""Task utility: both forms, their errors, and what an unmeasured task counts as."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import ConfigError, StateError
from astor_rl.utility.potential import Potential, PotentialEstimate, PotentialOptions
from astor_rl.utility.synergy import Synergy, SynergyEstimate, SynergyOptions
from astor_rl.utility.task_utility import (
    UtilityOptions,
    UtilitySnapshot,
    combine,
    take_snapshot,
)

small = st.floats(0, 1)


@given(p=small, p_se=small, s=st.floats(-1, 1), s_se=small, pull=st.floats(0, 2))
def test_both_forms_and_their_errors(
    p: float, p_se: float, s: float, s_se: float, pull: float
) -> None:
    potential = PotentialEstimate(p, p_se, 9, 4, 0.5)
    synergy = SynergyEstimate(s, s_se, s, s_se, 3)
    add = combine(potential, synergy, UtilityOptions("additive", pull))
    assert add.utility == pytest.approx(p + pull * s)
    assert add.utility_se == pytest.approx(math.sqrt(p_se**2 + (pull * s_se) ** 2))
    times = combine(potential, synergy, UtilityOptions("multiplicative", pull))
    assert times.utility == pytest.approx(p * (1 + pull * s))
    assert times.utility_se == pytest.approx(
        math.sqrt(((1 + pull * s) * p_se) ** 2 + (p * pull * s_se) ** 2)
    )
    assert (add.revision, add.synergy_revision, add.groups) == (4, 3, 9)


def test_only_the_shrunk_synergy_enters() -> None:
    potential = PotentialEstimate(0.4, 0.1, 9, 4, 0.5)
    synergy = SynergyEstimate(0.5, 0.4, 0.18, 0.24, 3)
    task = combine(potential, synergy, UtilityOptions(synergy_weight=1.0))
    assert task.utility == pytest.approx(0.58)
    assert (task.synergy, task.synergy_used) == (0.5, 0.18)


def test_unknown_synergy_stays_unknown() -> None:
    potential = PotentialEstimate(0.4, 0.1, 9, 4, 0.5)
    synergy = SynergyEstimate(None, None, 0.0, 0.0, None)
    task = combine(potential, synergy, UtilityOptions())
    assert (task.synergy, task.synergy_se, task.synergy_used) == (None, None, 0.0)
    assert (task.utility, task.utility_se) == (0.4, 0.1)


def test_an_unmeasured_task_takes_the_others_mean() -> None:
    potential = Potential("abc", PotentialOptions())
    for _ in range(8):
        potential.observe("a", 0, [0.0, 1.0])
        potential.observe("b", 0, [0.0, 0.0])
    snapshot = take_snapshot(
        5, "abc", potential, Synergy("abc", SynergyOptions()), UtilityOptions()
    )
    tasks = snapshot.tasks
    assert tasks["c"].utility == pytest.approx((tasks["a"].utility + tasks["b"].utility) / 2)
    assert tasks["c"].utility_se == pytest.approx(
        math.sqrt((tasks["a"].utility_se ** 2 + tasks["b"].utility_se ** 2) / 2)
    )
    assert (tasks["c"].groups, tasks["c"].revision) == (0, None)
    assert snapshot.revision == 5


def test_before_any_measurement_all_tasks_are_equal() -> None:
    snapshot = take_snapshot(
        0,
        "ab",
        Potential("ab", PotentialOptions()),
        Synergy("ab", SynergyOptions()),
        UtilityOptions(),
    )
    assert snapshot.tasks["a"] == snapshot.tasks["b"]
    assert snapshot.tasks["a"].utility_se > 0


def test_snapshot_survives_json() -> None:
    potential = Potential("ab", PotentialOptions())
    potential.observe("a", 0, [0.1, 0.7, 0.2])
    snapshot = take_snapshot(2, "ab", potential, Synergy("ab", SynergyOptions()), UtilityOptions())
    text = json.dumps(snapshot.as_dict(), allow_nan=False)
    assert UtilitySnapshot.from_dict(json.loads(text)) == snapshot
    with pytest.raises(StateError, match="missing"):
        UtilitySnapshot.from_dict({"revision": 1})


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"utility\.form is 'sum'"):
        UtilityOptions(form="sum")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"utility\.synergy_weight is -1"):
        UtilityOptions(synergy_weight=-1)
