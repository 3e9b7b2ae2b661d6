"""Every switch of docs/baselines.md's ablation table does what it says, by hand."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from astor_rl.calibrate.kl import CalibrateOptions, multipliers
from astor_rl.config import parse_config
from astor_rl.plan import GradientProbe, TaskSpec
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.schedule.scheduler import Scheduler
from astor_rl.utility.synergy import Synergy, SynergyOptions
from astor_rl.utility.task_utility import TaskUtility, UtilitySnapshot

RUN = {
    "model": "m",
    "tasks": [{"name": "one", "task": "io_prediction", "source": "jsonl:x.jsonl"}],
}


def measured(options: SynergyOptions, *, noise: float, probes: int = 40) -> Synergy:
    """Two tasks of cosine 0.6 in the plane, halves with independent noise in many dimensions."""
    rng = np.random.default_rng(0)
    synergy = Synergy("ab", options)
    truth = np.zeros((4, 400))
    truth[:2, 0] = 1.0
    truth[2:, :2] = 0.6, 0.8
    for revision in range(probes):
        halves = truth + rng.normal(0, noise, truth.shape)
        synergy.observe(revision, GradientProbe(("a", "b"), halves @ halves.T, (4, 4, 4, 4)))
    return synergy


def test_the_plain_cosine_is_pulled_to_zero_by_noise():
    """400 dimensions of noise 0.05 add 0.05^2 x 400 / 2 = 0.5 to a squared norm of 1.

    So the plain cosine is 0.6 / 1.5 = 0.4, and the corrected one 0.6.
    """
    plain = measured(SynergyOptions(estimator="plain", half_life=1e6), noise=0.05).pair("a", "b")
    corrected = measured(SynergyOptions(half_life=1e6), noise=0.05).pair("a", "b")
    assert plain.cosine == pytest.approx(0.4, abs=0.02)
    assert corrected.cosine == pytest.approx(0.6, abs=0.05)


def test_without_noise_both_estimators_agree():
    found = [
        measured(SynergyOptions(estimator=each), noise=0.0).pair("a", "b").cosine
        for each in ("plain", "corrected")
    ]
    assert found == pytest.approx([0.6, 0.6])


def test_synergy_enters_as_measured_without_shrinkage():
    shrunk = measured(SynergyOptions(), noise=0.1).estimate("a")
    whole = measured(SynergyOptions(shrink=False), noise=0.1).estimate("a")
    assert whole.value == shrunk.value
    assert whole.value is not None
    assert whole.shrunk == whole.value > shrunk.shrunk > 0
    assert whole.shrunk_se == whole.se


@pytest.mark.parametrize("corrected", [True, False])
def test_the_softmax_without_its_correction_follows_utilities_alone(corrected: bool):
    """U = 0.5 both, se = 0 and 0.2, tau = 0.25: with it odds are exp(-0.04 / 0.5 / 0.25)."""
    options = ScheduleOptions(warmup_steps=0, mix=0.0, noise_correction=corrected)
    specs = [TaskSpec("a", ["x"]), TaskSpec("b", ["y"])]
    scheduler = Scheduler(specs, options, PromptOptions(), cost_half_life=8.0)
    scheduler.advance(0, {"a": 9, "b": 9})
    tasks = {
        name: TaskUtility(0.5, se, 0.5, se, None, None, 0.0, 9, 0, None)
        for name, se in (("a", 0.0), ("b", 0.2))
    }
    stages = scheduler.stages(UtilitySnapshot(0, tasks))
    odds = math.exp(-0.04 / 0.5 / 0.25) if corrected else 1.0
    for stage in (stages.potential, stages.synergy, stages.floor):
        assert stage[1] / stage[0] == pytest.approx(odds)


def test_multipliers_as_they_come():
    """kappa 0.7, z = -1 and 3: exp(0.7) = 2.01375, and exp(-2.1) = 0.122 is cut at 0.25."""
    options = CalibrateOptions(normalise=False)
    found = multipliers(np.array([-1.0, 3.0]), np.array([0.9, 0.1]), options)
    assert found == pytest.approx([2.0137527, 0.25])
    tight = CalibrateOptions(normalise=False, direction="tighten")
    assert multipliers(np.array([1.0]), np.ones(1), tight) == pytest.approx([2.0137527])


def test_every_switch_of_the_page_is_accepted_and_changes_something():
    page = (Path(__file__).parents[1] / "docs" / "baselines.md").read_text(encoding="utf-8")
    section = page.partition("## ASTOR with parts switched")[2].partition("## Merging")[0]
    switches = re.findall(r"`([a-z_.]+ = [^`]+)`", section)
    assert len(switches) >= 24
    plain = parse_config(RUN).resolved()
    for switch in switches:
        assert parse_config({**RUN, **tomllib.loads(switch)}).resolved() != plain, switch
