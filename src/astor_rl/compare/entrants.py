"""Who is compared: arms, the specialists one by one, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from astor_rl.compare.results import Result, mean
from astor_rl.compare.spec import ArmConfig, CompareConfig, Role
from astor_rl.compare.units import Unit

_METHODS: Mapping[str, Role] = {
    "uniform": "joint",
    "proportional": "joint",
    "curriculum": "curriculum",
    "astor": "ablation",
}
"""What an arm is by its `schedule.method`; any other is a scheduler."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """One way to get a model, with a result for each seed.

    Attributes:
        name: the arm's; `ARM:TASK` for one specialist of an arm.
        arm: whose it is.
        role: what the reference is compared with it as.
        kind: `run`, `merge`, `specialist` (of one task), or `best` (the best of an arm's
            specialists, chosen for each seed by mean validation score).
        task: of a specialist.
        results: by seed; finished ones only.
        chosen: of `best`, the specialist's task by seed.
    """

    name: str
    arm: ArmConfig
    role: Role
    kind: Literal["run", "merge", "specialist", "best"]
    task: str | None
    results: Mapping[int, Result]
    chosen: Mapping[int, str]

    def test(self, seed: int) -> float:
        """Mean test score over tasks."""
        return mean(self.results[seed].test)


def list_entrants(
    comparison: CompareConfig, units: Sequence[Unit], results: Mapping[str, Result]
) -> list[Entrant]:
    """Everybody with at least one result, in the order of the compare file."""
    return [
        entrant
        for arm in comparison.arms
        for entrant in _of_arm(arm, [unit for unit in units if unit.arm == arm.name], results)
        if entrant.results
    ]


def _of_arm(
    arm: ArmConfig, units: Sequence[Unit], results: Mapping[str, Result]
) -> Iterator[Entrant]:
    role = _role(arm, units)
    done = [unit for unit in units if unit.name in results]
    if arm.kind != "specialists":
        by_seed = {unit.seed: results[unit.name] for unit in done}
        yield Entrant(arm.name, arm, role, arm.kind, None, by_seed, {})
        return
    tasks = list(dict.fromkeys(str(unit.task) for unit in units))
    of_task = {
        task: {unit.seed: results[unit.name] for unit in done if unit.task == task}
        for task in tasks
    }
    for task, by_seed in of_task.items():
        yield Entrant(f"{arm.name}:{task}", arm, role, "specialist", task, by_seed, {})
    chosen = {
        seed: _best({task: of_task[task][seed] for task in tasks})
        for seed in dict.fromkeys(unit.seed for unit in units)
        if all(seed in of_task[task] for task in tasks)
    }
    best = {seed: of_task[task][seed] for seed, task in chosen.items()}
    yield Entrant(arm.name, arm, role, "best", None, best, chosen)


def _best(by_task: Mapping[str, Result]) -> str:
    """The specialist with the highest mean validation score; of equals the first."""
    scores = {task: mean(result.validation) for task, result in by_task.items()}
    return max(scores, key=lambda task: scores[task])


def _role(arm: ArmConfig, units: Sequence[Unit]) -> Role:
    if arm.role is not None:
        return arm.role
    if arm.kind != "run":
        return "specialist" if arm.kind == "specialists" else "merging"
    return _METHODS.get(units[0].config.schedule.method, "scheduler")
