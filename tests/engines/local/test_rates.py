"""Learning-rate factors against the closed forms."""

from __future__ import annotations

import math

import pytest

from astor_rl.engines.local.rates import lr_factor


def test_ramp_is_linear_and_never_zero() -> None:
    factors = [lr_factor(s, kind="constant", lr_warmup_steps=3, total=10) for s in range(5)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_reaches_zero_at_the_end() -> None:
    factors = [lr_factor(s, kind="linear", lr_warmup_steps=0, total=4) for s in range(5)]
    assert factors == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("step", [2, 5, 11, 12])
def test_cosine_follows_half_a_cosine(step: int) -> None:
    factor = lr_factor(step, kind="cosine", lr_warmup_steps=2, total=12)
    assert factor == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 2) / 10)))


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_ramp_longer_than_the_run_is_no_division_by_zero(kind: str) -> None:
    assert lr_factor(5, kind=kind, lr_warmup_steps=5, total=5) >= 0  # type: ignore[arg-type]
