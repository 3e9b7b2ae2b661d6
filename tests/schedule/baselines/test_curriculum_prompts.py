"""Competence by hand, and which prompts it opens."""

from __future__ import annotations

import numpy as np
import pytest

from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.curriculum_prompts import CurriculumPrompts
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.utility.task_utility import UtilitySnapshot

RNG = np.random.default_rng(0)


def test_linear_competence(bench):
    """c0 = 0.2, T = 10: 0.2 + 0.08 t, so 0.2 at t = 0, 0.6 at t = 5, 1 from t = 10 on."""
    each = bench("curriculum_prompts", competence=0.2, competence_root=1)
    found = []
    for _ in range(13):
        assert each.shares() == [0.5, 0.5]
        found.append(each.arm.terms("a")["competence"])
    assert found[0::5] == pytest.approx([0.2, 0.6, 1.0])
    assert found[12] == 1.0


def test_root_competence(bench):
    """c0 = 0.2, T = 10, p = 2: sqrt(0.04 + 0.096 t), so sqrt(0.52) at t = 5."""
    each = bench("curriculum_prompts", competence=0.2)
    found = []
    for _ in range(13):
        each.shares()
        found.append(each.arm.terms("a")["competence"])
    assert found[0::5] == pytest.approx([0.2, 0.7211103, 1.0])
    assert found[12] == 1.0


def test_prompts_come_from_the_easiest_share(bench):
    """Difficulties i / 10 of ten prompts: at c = 0.6 prompts 0..5 are open."""
    each = bench("curriculum_prompts", competence=0.2, competence_root=1)
    for _ in range(6):
        each.shares()
    picks = [each.arm.pick("a", np.arange(10), 3, RNG, refill=False) for _ in range(60)]
    assert set(np.concatenate(picks).tolist()) == set(range(6))
    # Of the open ones only 4 and 5 are free, so the easiest beyond them is taken too.
    assert sorted(each.arm.pick("a", np.array([9, 8, 7, 5, 4]), 3, RNG, refill=False)) == [4, 5, 7]


def test_unknown_difficulty_is_no_order():
    arm = CurriculumPrompts([TaskSpec("a", list("0123456789"))], BaselineOptions(horizon=10))
    arm.shares_at(UtilitySnapshot(0, {}))
    picks = [arm.pick("a", np.arange(10), 2, RNG, refill=False) for _ in range(60)]
    assert set(np.concatenate(picks).tolist()) == set(range(10))
    assert arm.note().endswith("; difficulty unknown, so drawn uniformly: a")
