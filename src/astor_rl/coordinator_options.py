"""Every option of the core in one record, and what of it a published scheduler leaves on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from astor_rl.calibrate.kl import CalibrateOptions
from astor_rl.errors import CapabilityError, ConfigError
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.schedule.baselines.registry import FILTERING
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.potential import PotentialOptions
from astor_rl.utility.synergy import SynergyOptions
from astor_rl.utility.task_utility import UtilityOptions


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """Every option of the core, a section each; the defaults are docs/method.md's."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    potential: PotentialOptions = field(default_factory=PotentialOptions)
    synergy: SynergyOptions = field(default_factory=SynergyOptions)
    utility: UtilityOptions = field(default_factory=UtilityOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    baseline: BaselineOptions = field(default_factory=BaselineOptions)
    prompts: PromptOptions = field(default_factory=PromptOptions)
    calibrate: CalibrateOptions = field(default_factory=CalibrateOptions)

    def in_effect(self, refills: bool = True) -> CoordinatorOptions:
        """The options with what a published scheduler doesn't have switched off.

        That is Module 2, and synergy except for `tac`; `baseline.calibrate` keeps both.

        Args:
            refills: whether the engine replaces groups that the method refuses.

        Raises:
            ConfigError: `tac` without synergy.
            CapabilityError: the method refuses groups, and the engine doesn't replace them.
        """
        method = self.schedule.method
        if method in FILTERING and not refills:
            raise CapabilityError(
                f"schedule.method is {method!r}, which replaces groups within a step; this engine "
                "doesn't do that (the local engine does)"
            )
        if method == "tac" and not self.synergy.enabled:
            raise ConfigError("synergy.enabled is false; schedule.method = 'tac' needs it")
        if method == "astor" or self.baseline.calibrate:
            return self
        synergy = replace(self.synergy, enabled=method == "tac")
        return replace(self, calibrate=replace(self.calibrate, enabled=False), synergy=synergy)
