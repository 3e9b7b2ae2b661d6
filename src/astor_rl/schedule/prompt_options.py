"""`[prompts]`: how prompts are chosen inside a task (docs/method.md, Module 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from astor_rl.checks import LEAST_TAU, check_choice, check_number


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How prompts are chosen inside a task.

    Attributes:
        value: what a visit's v is. `variance` (the paper's) is the outcome variance in units of
            0.25. `nonzero` is 1 for a group with any variance and 0 for one without: where
            advantages are divided by the group's deviation, every group with variance moves the
            policy alike. V is then the chance that a group teaches anything: for outcomes of 0 and
            1 it is 1 - p^G - (1 - p)^G, far flatter around one half than p (1 - p), and it is about
            the same for all prompts of a graded task, whose outcomes always differ a little.
        tau: temperature tau_p of the draw, in units of log utility.
        eta: weight of recent progress.
        fast_half_life, slow_half_life: of the two outcome averages, visits.
        evidence_half_life: age at which a visit's variance weighs half, revisions.
        explore_share: most of a task's quota that goes to unseen prompts while seen ones are
            left; a fraction of a prompt is decided by a coin, so a quota of 1 explores too.
        u_min: floor of the utility: no seen prompt's chance is ever zero.
        prior_weight: n0, visits' worth of belief in v0.
        prior_variance: v0 before the task's first visits, in units of v.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    value: Literal["variance", "nonzero"] = "variance"
    tau: float = 0.5
    eta: float = 0.5
    fast_half_life: float = 1.0
    slow_half_life: float = 4.0
    evidence_half_life: float = 50.0
    explore_share: float = 0.5
    u_min: float = 0.01
    prior_weight: float = 1.0
    prior_variance: float = 0.25

    def __post_init__(self) -> None:
        check_choice("prompts.value", self.value, ("variance", "nonzero"))
        check_number("prompts.tau", self.tau, low=LEAST_TAU)
        for name in ("fast_half_life", "slow_half_life", "evidence_half_life"):
            check_number(f"prompts.{name}", getattr(self, name), low=0, above=True)
        check_number("prompts.eta", self.eta, low=0)
        check_number("prompts.explore_share", self.explore_share, low=0, high=1)
        check_number("prompts.u_min", self.u_min, low=0, above=True)
        check_number("prompts.prior_weight", self.prior_weight, low=0, above=True)
        check_number("prompts.prior_variance", self.prior_variance, low=0)
