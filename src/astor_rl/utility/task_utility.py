"""Task utility: what each task is worth now (docs/method.md, Task utility).

`additive` U_k = P_k + lambda S_k; `multiplicative` U_k = P_k (1 + lambda S_k), the form of TAC
(arXiv 2606.25178). With two tasks S_1 = S_2, so additive synergy cancels in the softmax over
tasks: that is a property of the form, not an error.

The schedule and the calibration read one `UtilitySnapshot`, so they never disagree about what a
task is worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from astor_rl.checks import check_choice, check_keys, check_number
from astor_rl.utility.potential import Potential, PotentialEstimate
from astor_rl.utility.synergy import Synergy, SynergyEstimate


@dataclass(frozen=True, slots=True)
class UtilityOptions:
    """How potential and synergy make a utility.

    Attributes:
        form: `additive` or `multiplicative`, see the module's text.
        synergy_weight: lambda_s >= 0.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    form: Literal["additive", "multiplicative"] = "additive"
    synergy_weight: float = 0.5

    def __post_init__(self) -> None:
        check_choice("utility.form", self.form, ("additive", "multiplicative"))
        check_number("utility.synergy_weight", self.synergy_weight, low=0)


@dataclass(frozen=True, slots=True)
class TaskUtility:
    """One task's worth.

    Attributes:
        utility, utility_se: U_k and its standard error.
        potential, potential_se: P_k, measured on the prompts that were scheduled. A task that was
            never measured takes the others' mean: it is neither favoured nor punished.
        synergy, synergy_se: S_k before shrinkage; None while unknown.
        synergy_used: the shrunk S_k inside U_k; 0 while unknown.
        groups: groups behind P_k; 0 means that P_k is the others' mean.
        revision: the newest revision behind P_k; None when never measured.
        synergy_revision: the newest probe behind S_k; None when never probed.
    """

    utility: float
    utility_se: float
    potential: float
    potential_se: float
    synergy: float | None
    synergy_se: float | None
    synergy_used: float
    groups: int
    revision: int | None
    synergy_revision: int | None


@dataclass(frozen=True, slots=True)
class UtilitySnapshot:
    """Every task's utility at one policy revision; what both modules read.

    Attributes:
        revision: the policy revision it was taken at.
        tasks: by name.
    """

    revision: int
    tasks: Mapping[str, TaskUtility]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "revision": self.revision,
            "tasks": {name: asdict(task) for name, task in self.tasks.items()},
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> UtilitySnapshot:
        """Rebuild from `as_dict()`.

        Raises:
            StateError: entries are missing or unknown.
        """
        check_keys("utility snapshot", state, ["revision", "tasks"])
        names = [field.name for field in fields(TaskUtility)]
        for name, entries in state["tasks"].items():
            check_keys(f"utility of {name}", entries, names)
        tasks = {name: TaskUtility(**entries) for name, entries in state["tasks"].items()}
        return cls(revision=state["revision"], tasks=tasks)


def combine(
    potential: PotentialEstimate, synergy: SynergyEstimate, options: UtilityOptions
) -> TaskUtility:
    """Join a task's potential and synergy; errors by the delta method, taken as independent."""
    pull = options.synergy_weight
    if options.form == "additive":
        utility = potential.value + pull * synergy.shrunk
        slope_potential, slope_synergy = 1.0, pull
    else:
        utility = potential.value * (1 + pull * synergy.shrunk)
        slope_potential, slope_synergy = 1 + pull * synergy.shrunk, potential.value * pull
    return TaskUtility(
        utility=utility,
        utility_se=math.hypot(slope_potential * potential.se, slope_synergy * synergy.shrunk_se),
        potential=potential.value,
        potential_se=potential.se,
        synergy=synergy.value,
        synergy_se=synergy.se,
        synergy_used=synergy.shrunk,
        groups=potential.groups,
        revision=potential.revision,
        synergy_revision=synergy.revision,
    )


def take_snapshot(
    revision: int,
    tasks: Iterable[str],
    potential: Potential,
    synergy: Synergy,
    options: UtilityOptions,
) -> UtilitySnapshot:
    """The utility of every task as known at `revision`."""
    potentials = {name: potential.estimate(name) for name in tasks}
    measured = [estimate for estimate in potentials.values() if estimate.groups]
    if measured:
        mean = math.fsum(estimate.value for estimate in measured) / len(measured)
        se = math.sqrt(math.fsum(estimate.se**2 for estimate in measured) / len(measured))
        neutral = PotentialEstimate(mean, se, 0, None, None)
        potentials = {n: e if e.groups else neutral for n, e in potentials.items()}
    return UtilitySnapshot(
        revision=revision,
        tasks={n: combine(e, synergy.estimate(n), options) for n, e in potentials.items()},
    )
