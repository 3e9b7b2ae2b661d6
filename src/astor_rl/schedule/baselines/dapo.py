"""DAPO's dynamic sampling (Yu et al. 2025, arXiv 2503.14476, section 3.2, equation 11).

0 < number of right answers < G: a group whose outcomes are all equal is left out of the update, and
other prompts are sampled until the batch is full. As in its code the batch is one count: what is
*sampled* follows the base mixture, and tasks whose groups vary more often have more of the batch.
Prompts are asked for through the coordinator's `need`, exactly as many as the batch lacks (the code
generates whole batches and drops the surplus), for at most `baseline.max_rounds` rounds, the code's
10; then the step trains on what there is, where the code stops with an error. DAPO's other parts
are options of the loss: `epsilon_high = 0.28`, `loss_type = "dapo"`, `beta = 0`.
"""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.plan import varies
from astor_rl.schedule.baselines.arm import Arm, FloatArray
from astor_rl.utility.task_utility import UtilitySnapshot


class Dapo(Arm):
    """The base mixture, groups without variance replaced."""

    filters = True
    pooled = True

    def shares(self, step: int, snapshot: UtilitySnapshot) -> FloatArray:
        """The base mixture."""
        return self.mixture

    def keeps(self, task: str, outcomes: Sequence[float]) -> bool:
        """Whether two outcomes differ."""
        return varies(outcomes)

    def note(self) -> str:
        """Says so."""
        return f"groups of equal outcomes are replaced, in {self._options.max_rounds} rounds"
