"""A step's metrics and receipt into the run folder, from the driver."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from astor_rl.plan import StepPlan
from astor_rl.report.jsonl import JsonLines

_TIMES = {
    "gen": "rollout",
    "old_log_prob": "logprobs",
    "ref": "reference",
    "adv": "advantage",
    "update_actor": "update",
    "update_weights": "sync",
    "save_checkpoint": "checkpoint",
    "step": "step",
}
"""verl's name of a part of a step -> ours."""


class Records:
    """Appends to a run folder that another process made and holds.

    Args:
        folder: the run folder; every step is one line in `metrics.jsonl` and `receipts.jsonl`.
    """

    def __init__(self, folder: Path) -> None:
        self._metrics = JsonLines(folder / "metrics.jsonl")
        self._receipts = JsonLines(folder / "receipts.jsonl")
        self._plan: StepPlan | None = None
        self._recorded = 0

    def begin(self, step: int) -> None:
        """Forget what was recorded for steps beyond `step`: they will be trained again."""
        for log in (self._metrics, self._receipts):
            log.keep(lambda record: record.get("step") is None or record["step"] <= step)

    def plan(self, plan: StepPlan) -> None:
        """Keep the step's plan for its record."""
        self._plan = plan

    def step(self, step: int, metrics: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """File one step. A second record of the same step replaces the first.

        Args:
            step: 1 for the first.
            metrics: verl's and ours.
            seconds: wall seconds by part, by verl's names.
        """
        if step == self._recorded:
            self.begin(step - 1)
        self._recorded = step
        times = {f"time/{ours}": seconds[name] for name, ours in _TIMES.items() if name in seconds}
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float | np.number)
        }
        self._metrics.append({"step": step, **numbers, **times})
        if self._plan is not None:
            receipt = self._plan.receipt.as_dict()
            self._receipts.append({"step": step, "plan": self._plan.id, **receipt})

    def sync(self) -> None:
        """Make all records survive a power cut. Call before writing a checkpoint."""
        for log in (self._metrics, self._receipts):
            log.sync()
