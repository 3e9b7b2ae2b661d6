"""Which scheduler decides, and the options of the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from astor_rl.checks import check_choice, check_count, check_number
from astor_rl.errors import ConfigError

Method = Literal[
    "astor",
    "uniform",
    "proportional",
    "single",
    "sequential",
    "curriculum",
    "curriculum_prompts",
    "e2h",
    "dapo",
    "sec",
    "dump",
    "mt_grpo",
    "tac",
    "mopps",
    "greso",
    "adarft",
    "vcrl",
]
METHODS: tuple[Method, ...] = get_args(Method)
"""Every value of `schedule.method`; docs/baselines.md says where each comes from."""

MAX_ROUNDS = 255
"""A step's plan and its refills are in flight together: with one more the coordinator refuses."""

NEEDS_HORIZON = frozenset({"sequential", "curriculum", "curriculum_prompts", "e2h"})
"""Methods that spread themselves over the whole run and must know how long it is."""


_READERS: dict[str, frozenset[str]] = {
    "task": frozenset({"single"}),
    "order": frozenset({"sequential", "curriculum", "e2h"}),
    "measure_steps": frozenset({"curriculum", "e2h"}),
    "horizon": NEEDS_HORIZON,
    "cumulative": frozenset({"sequential", "curriculum"}),
    "competence": frozenset({"curriculum_prompts"}),
    "competence_root": frozenset({"curriculum_prompts"}),
    "max_rounds": frozenset({"dapo", "greso", "mt_grpo", "vcrl"}),
}
"""Who reads an option that isn't named after its reader. `calibrate` is read with all of them."""


def reads(method: str, option: str) -> bool:
    """Whether a run with `schedule.method = method` depends on the option of `[baseline]`."""
    if option in _READERS:
        return method in _READERS[option]
    owner = next((each for each in METHODS if option.startswith(f"{each}_")), method)
    return owner == method


@dataclass(frozen=True, slots=True)
class BaselineOptions:
    """Options of the published schedulers; most are named after the one that reads them.

    Attributes:
        calibrate: keep Module 2 on beside a published scheduler (`calibrate.enabled` still
            switches it); else the base betas stay as they are, as in the papers.
        task: the task `single` trains on.
        order: tasks from first to last (`sequential`) or from easy to hard (`curriculum`, `e2h`);
            empty: by name, or by the mean outcome of the first `measure_steps` steps.
        measure_steps: revisions of equal shares that base pass rates are measured in.
        horizon: T, revisions a curriculum is spread over; None: the engine's `max_steps`.
        cumulative: `sequential`, `curriculum`: earlier tasks stay in the mixture.
        competence: `curriculum_prompts`: c0, the share of the prompts that is open at the start.
        competence_root: p of its growth, t^(1/p): 1 is linear.
        e2h_schedule: `gaussian` (E2H-G) or `cosine` (E2H-C).
        e2h_exponent: speed of the Gaussian's centre, (t / T)^exponent.
        e2h_sigma: its standard deviation, in levels.
        max_rounds: refills of one step at most, where groups are filtered; at most 255.
        sec_rate, sec_temperature: alpha of Q and the temperature of its softmax.
        dump_window: rollouts whose advantages a task's mean is of.
        dump_temperature: of the softmax over upper confidence bounds.
        mt_grpo_lambda: weight of the average outcome beside its improvement.
        mt_grpo_rate, mt_grpo_decay: AdamW's learning rate and weight decay on the logits.
        mt_grpo_clip: improvements are clipped to +- this.
        tac_weight: a, the weight of the mean cosine.
        tac_rate, tac_temperature: of the advantage's moving average, and of the softmax.
        mopps_target: the pass rate that is aimed at.
        mopps_decay: what a step keeps of a prompt's evidence.
        mopps_candidates: prompts considered for each one that is drawn.
        greso_easy, greso_hard: initial exploration probabilities p of too easy and too hard
            prompts.
        greso_target: share of groups without variance that both are steered to; a third of it
            easy, two thirds hard.
        greso_step: how much a revision changes them.
        adarft_rate, adarft_sensitivity, adarft_target: eta, alpha and beta of the target
            difficulty; difficulties are in [0, 1].
        vcrl_threshold, vcrl_late_threshold: kappa in the first `vcrl_early_steps` revisions, and
            after them.
        vcrl_early_steps: see there.
        vcrl_momentum: what a new visit leaves of a prompt's priority.
        vcrl_replays: how often a prompt is replayed at most.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    calibrate: bool = False
    task: str = ""
    order: tuple[str, ...] = ()
    measure_steps: int = 4
    horizon: int | None = None
    cumulative: bool = False
    competence: float = 0.01
    competence_root: int = 2
    e2h_schedule: Literal["gaussian", "cosine"] = "gaussian"
    e2h_exponent: float = 0.5
    e2h_sigma: float = 0.5
    max_rounds: int = 10
    sec_rate: float = 0.5
    sec_temperature: float = 0.2
    dump_window: int = 300
    dump_temperature: float = 0.1
    mt_grpo_lambda: float = 0.2
    mt_grpo_rate: float = 0.025
    mt_grpo_decay: float = 1e-5
    mt_grpo_clip: float = 0.1
    tac_weight: float = 1.0
    tac_rate: float = 0.5
    tac_temperature: float = 0.2
    mopps_target: float = 0.5
    mopps_decay: float = 0.5
    mopps_candidates: int = 8
    greso_easy: float = 0.5
    greso_hard: float = 0.5
    greso_target: float = 0.25
    greso_step: float = 0.01
    adarft_rate: float = 0.5
    adarft_sensitivity: float = 2.0
    adarft_target: float = 0.5
    vcrl_threshold: float = 0.3
    vcrl_late_threshold: float = 0.8
    vcrl_early_steps: int = 20
    vcrl_momentum: float = 0.9
    vcrl_replays: int = 2

    def __post_init__(self) -> None:
        check_choice("baseline.e2h_schedule", self.e2h_schedule, ("gaussian", "cosine"))
        for name in _SHARES:
            check_number(f"baseline.{name}", getattr(self, name), low=0, high=1)
        for name in _POSITIVE:
            check_number(f"baseline.{name}", getattr(self, name), low=0, above=True)
        for name in _NOT_NEGATIVE:
            check_number(f"baseline.{name}", getattr(self, name), low=0)
        for name in ("competence_root", "measure_steps", "dump_window", "mopps_candidates"):
            check_count(f"baseline.{name}", getattr(self, name), low=1)
        for name in ("max_rounds", "vcrl_early_steps", "vcrl_replays"):
            check_count(f"baseline.{name}", getattr(self, name), low=0)
        if self.max_rounds > MAX_ROUNDS:
            raise ConfigError(
                f"baseline.max_rounds is {self.max_rounds}; it must be at most {MAX_ROUNDS}"
            )
        if self.horizon is not None:
            check_count("baseline.horizon", self.horizon, low=1)
        if len(set(self.order)) < len(self.order):
            raise ConfigError(f"baseline.order is {list(self.order)}; it must name each task once")


_SHARES = (
    "competence",
    "sec_rate",
    "tac_rate",
    "mopps_target",
    "mopps_decay",
    "greso_easy",
    "greso_hard",
    "greso_target",
    "greso_step",
    "adarft_target",
    "vcrl_threshold",
    "vcrl_late_threshold",
    "vcrl_momentum",
)
_POSITIVE = (
    "e2h_exponent",
    "e2h_sigma",
    "sec_temperature",
    "dump_temperature",
    "mt_grpo_rate",
    "mt_grpo_clip",
    "tac_temperature",
)
_NOT_NEGATIVE = (
    "mt_grpo_lambda",
    "mt_grpo_decay",
    "tac_weight",
    "adarft_rate",
    "adarft_sensitivity",
)
