"""The arm that `schedule.method` names."""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.checks import check_choice
from astor_rl.errors import ConfigError
from astor_rl.plan import TaskSpec
from astor_rl.schedule.baselines.adarft import AdaRft
from astor_rl.schedule.baselines.arm import Arm
from astor_rl.schedule.baselines.curriculum_prompts import CurriculumPrompts
from astor_rl.schedule.baselines.dapo import Dapo
from astor_rl.schedule.baselines.dump import Dump
from astor_rl.schedule.baselines.e2h import E2H
from astor_rl.schedule.baselines.greso import Greso
from astor_rl.schedule.baselines.ladder import Curriculum, Sequential
from astor_rl.schedule.baselines.mixtures import Proportional, Single, Uniform
from astor_rl.schedule.baselines.mopps import Mopps
from astor_rl.schedule.baselines.mt_grpo import MtGrpo
from astor_rl.schedule.baselines.options import METHODS, NEEDS_HORIZON, BaselineOptions, Method
from astor_rl.schedule.baselines.sec import Sec
from astor_rl.schedule.baselines.tac import Tac
from astor_rl.schedule.baselines.vcrl import Vcrl

ARMS: dict[str, type[Arm]] = {
    "uniform": Uniform,
    "proportional": Proportional,
    "single": Single,
    "sequential": Sequential,
    "curriculum": Curriculum,
    "curriculum_prompts": CurriculumPrompts,
    "e2h": E2H,
    "dapo": Dapo,
    "sec": Sec,
    "dump": Dump,
    "mt_grpo": MtGrpo,
    "tac": Tac,
    "mopps": Mopps,
    "greso": Greso,
    "adarft": AdaRft,
    "vcrl": Vcrl,
}

PICKING = frozenset(name for name, arm in ARMS.items() if arm.picks)
"""Methods that choose prompts by a rule of their own: `schedule.epochs` is nothing to them."""

FILTERING = frozenset(name for name, arm in ARMS.items() if arm.filters)
"""Methods that refuse groups within a step and ask for others."""


def make_arm(method: Method, tasks: Sequence[TaskSpec], options: BaselineOptions) -> Arm | None:
    """The arm of a name; None for `astor`, whose quotas and draws are the scheduler's own.

    Raises:
        ConfigError: an unknown name, or options that don't fit the tasks.
    """
    check_choice("schedule.method", method, METHODS)
    if method in NEEDS_HORIZON and options.horizon is None:
        raise ConfigError(
            f"schedule.method is {method!r} and baseline.horizon is unset; set it to the number of "
            "revisions that the curriculum is spread over"
        )
    return ARMS[method](tasks, options) if method in ARMS else None
