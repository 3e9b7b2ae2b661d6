"""The coordinator beside verl's data loader: which rows come next, and what became of them.

It lives on the driver, knows nothing of verl, torch or Ray, and is the part of a checkpoint that
is ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from astor_rl.checks import check_keys
from astor_rl.config import RunConfig
from astor_rl.coordinator import Coordinator
from astor_rl.engines.preparation import task_specs
from astor_rl.errors import PlanError, StateError
from astor_rl.plan import GroupOutcome, PlanItem, StepPlan, UpdateStats

Place = tuple[str, str]
"""A prompt's task and key."""

STATE_VERSION = 1


def build_coordinator(
    config: RunConfig,
    keys: Mapping[str, Sequence[str]],
    difficulty: Mapping[str, Sequence[float]] | None = None,
) -> Coordinator:
    """The coordinator of a run's config and its training prompts.

    Args:
        config: the run.
        keys: the prompts' by task.
        difficulty: theirs, in [0, 1], for tasks where it is known.

    Raises:
        StateError: a task of the config has no prompts, or there are prompts of an unknown one.
    """
    names = {task.name for task in config.tasks}
    if names != set(keys):
        raise StateError(
            f"the run's tasks are {', '.join(sorted(names))}; its data holds "
            f"{', '.join(sorted(keys))}; export it again"
        )
    return Coordinator(
        task_specs(config, keys, difficulty or {}),
        prompts_per_step=config.prompts_per_step,
        options=config.coordinator_options(),
        seed=config.seed,
    )


class Coordination:
    """One plan at a time, as rows of a data set.

    Args:
        coordinator: decides.
        places: task and key of every row of the data set, in its order.

    Attributes:
        revision: the policy's, which is the number of updates reported.
        plan: what the rows handed out last belong to; None before the first.
    """

    def __init__(self, coordinator: Coordinator, places: Sequence[Place]) -> None:
        self._coordinator = coordinator
        self._row = {place: row for row, place in enumerate(places)}
        self._rows = len(places)
        self._left: deque[int] = deque()
        self.revision = 0
        self.plan: StepPlan | None = None

    def __len__(self) -> int:
        return self._rows

    def next_row(self) -> int:
        """The next row to train on. When a plan's rows are used up, the next plan is made.

        Raises:
            PlanError: the plan before was not reported, or the batch can't be planned.
        """
        if not self._left:
            if self.plan is not None and self.plan.id in self._coordinator.in_flight:
                raise PlanError(
                    f"plan {self.plan.id} was handed out and not reported; the data loader reads "
                    "ahead (data.dataloader_num_workers must be 0) or fetched twice in a step"
                )
            self.plan = self._coordinator.plan(revision=self.revision)
            self._left.extend(self._row[item.task, item.key] for item in self.plan.items)
        return self._left.popleft()

    def current(self) -> StepPlan:
        """The plan that is being trained on.

        Raises:
            PlanError: there is none.
        """
        if self.plan is None:
            raise PlanError("no plan was made yet; nothing was fetched from the data loader")
        return self.plan

    def uids(self) -> list[str]:
        """verl's name of each of the plan's groups; `item_of` reads it back."""
        plan = self.current()
        return [f"{plan.id}-{item.slot}" for item in plan.items]

    def item_of(self, uid: str) -> PlanItem:
        """The plan's item behind one of verl's group names.

        Raises:
            PlanError: it is of another plan, or no name that `uids` gave.
        """
        plan = self.current()
        plan_id, _, slot = uid.partition("-")
        if plan_id != str(plan.id) or not slot.isdecimal() or int(slot) >= len(plan.items):
            raise PlanError(f"group {uid!r} is not of plan {plan.id}; a batch holds another step's")
        return plan.items[int(slot)]

    def observe_groups(self, groups: Iterable[GroupOutcome]) -> None:
        """Report the current plan's groups; one that is missing counts as unjudged."""
        plan = self.current()
        reported = {group.slot: group for group in groups}
        self._coordinator.observe_groups(
            plan.id,
            [
                reported.get(item.slot)
                or GroupOutcome(slot=item.slot, outcomes=(), invalid=item.num_generations)
                for item in plan.items
            ],
        )

    def observe_update(self, stats: UpdateStats) -> None:
        """Report the update; the policy is of the next revision then."""
        self._coordinator.observe_update(self.current().id, self.revision + 1, stats)
        self.revision += 1

    def metrics(self) -> dict[str, float]:
        """The coordinator's, flat."""
        return self._coordinator.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Everything the next rows depend on."""
        return {
            "version": STATE_VERSION,
            "revision": self.revision,
            "coordinator": self._coordinator.state_dict(),
            "plan": None if self.plan is None else self.plan.id,
            "left": len(self._left),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            StateError: it is of another version, or of other tasks, prompts or options.
        """
        if state.get("version") != STATE_VERSION:
            raise StateError(
                f"the coordination's state is of version {state.get('version')!r}; this is "
                f"{STATE_VERSION}: resume with the release that wrote it"
            )
        check_keys("the tasks", state["coordinator"]["tasks"], {task for task, _ in self._row})
        self._coordinator.load_state_dict(state["coordinator"])
        self.revision = int(state["revision"])
        self.plan = self._coordinator.in_flight.get(state["plan"])
        # A plan's rows are handed out in its order: how many are left says which.
        items = () if self.plan is None else self.plan.items[len(self.plan.items) - state["left"] :]
        self._left = deque(self._row[item.task, item.key] for item in items)
