"""MT-GRPO's weights by hand."""

from __future__ import annotations

import math

import pytest


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_two_steps(bench):
    """Step 1: means (0.25, 0.75), J half of them, I = 0, s = 0.2 J = (0.025, 0.075), z = 1/2:
    g = (-0.0125, +0.0125).

    AdamW's first step is the learning rate against the sign: xi = (+0.025, -0.025).

    Step 2: means (0.25, 1): I = (0, 0.25 clipped to 0.1), J = (0.1875, 0.6875), s = (0.0375,
    0.2375), z_a = sigmoid(0.05) = 0.512497. mean s = 0.0375 z_a + 0.2375 (1 - z_a) = 0.1350005;
    g_a = z_a (0.0375 - 0.1350005) = -0.0499688 = -g_b. Moments: m = 0.9 x -0.00125 + 0.1 g =
    -0.0061219, / (1 - 0.81) = -0.0322204; v = 0.999 x 1.5625e-7 + 0.001 g^2 = 2.652971e-6,
    / 0.001999 = 0.00132715, root 0.0364301. xi_a = 0.025 + 0.025 x 0.0322204 / 0.0364301
    = 0.0471111.
    """
    each = bench("mt_grpo", mt_grpo_decay=0.0)
    assert each.shares() == [0.5, 0.5]
    each.feed("a", 1, 0, 0, 0)
    each.feed("b", 1, 1, 1, 0)
    assert each.shares()[0] == pytest.approx(sigmoid(0.05), abs=1e-7)
    each.feed("a", 0, 0, 0, 1)
    each.feed("b", 1, 1, 1, 1)
    assert each.shares()[0] == pytest.approx(sigmoid(2 * 0.0471111), abs=1e-6)
    assert each.arm.terms("b") == pytest.approx(
        {"logit": -0.0471111, "reward": 0.6875, "improvement": 0.1}, abs=1e-6
    )


def test_weight_decay_is_decoupled(bench):
    """Logits shrink by 1 - lr x decay before the step: here to 0.9 of themselves."""
    each = bench("mt_grpo", mt_grpo_decay=4.0)
    each.feed("a", 0)
    each.feed("b", 1)
    each.shares()
    assert each.arm.terms("a")["logit"] == pytest.approx(0.025, abs=1e-7)
    plain = bench("mt_grpo", mt_grpo_decay=0.0)
    plain.feed("a", 0)
    plain.feed("b", 1)
    plain.shares()
    for one in (each, plain):
        one.feed("a", 0)
        one.feed("b", 1)
        one.shares()
    difference = plain.arm.terms("a")["logit"] - each.arm.terms("a")["logit"]
    assert difference == pytest.approx(0.1 * 0.025, abs=1e-6)


def test_an_absent_task_keeps_its_reward_and_has_not_improved(bench):
    each = bench("mt_grpo")
    each.feed("a", 1, 0)
    each.feed("b", 0)
    each.shares()
    each.feed("b", 1)
    each.shares()
    assert each.arm.terms("a")["reward"] == 0.25
    assert each.arm.terms("a")["improvement"] == 0.0
    assert each.arm.terms("b")["improvement"] == 0.1
