"""A coordinator that has a long run behind it, without running it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.plan import TaskSpec
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.schedule.unseen import Unseen

PROMPTS_PER_STEP = 128
GENERATIONS = 8
REVISION = 1_000
"""How far the run has come."""
_EVIDENCE_AGE = 100
"""Revisions that evidence is spread over, back from `REVISION`."""


@dataclass(frozen=True, slots=True)
class Keys(Sequence[str]):
    """So many content hashes, made when they are asked for."""

    size: int

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not 0 <= index < self.size:
            raise IndexError(index)
        return f"{index:032x}"

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(self.size))


def fresh(prompts: int, tasks: int) -> Coordinator:
    """A coordinator of so many prompts, shared out over the tasks as evenly as can be."""
    return Coordinator(
        [
            TaskSpec(
                f"task{k:03d}",
                Keys(prompts * (k + 1) // tasks - prompts * k // tasks),
                num_generations=GENERATIONS,
            )
            for k in range(tasks)
        ],
        prompts_per_step=PROMPTS_PER_STEP,
        # Past the warm-up: what is measured is scheduling by utility.
        options=CoordinatorOptions(schedule=ScheduleOptions(warmup_steps=0)),
    )


def state_after(coordinator: Coordinator, seen: int, rng: np.random.Generator) -> dict[str, Any]:
    """A fresh coordinator's state, as if `seen` of its prompts had been visited."""
    state = coordinator.state_dict()
    books = state["scheduler"]["books"]
    for k, book in enumerate(books.values()):
        count = seen * (k + 1) // len(books) - seen * k // len(books)
        _visit(book, min(count, book["size"]), rng)
    return state


def _visit(book: dict[str, Any], count: int, rng: np.random.Generator) -> None:
    """Fill a book with `count` visited prompts: ages, variances and progress of all kinds."""
    keys, unseen = Keys(book["size"]), Unseen(book["size"])
    index = unseen.draw(count, rng)
    weight = np.exp2(-rng.integers(0, _EVIDENCE_AGE, count) / 50.0)
    noise = rng.uniform(0.005, 0.03, count)
    figures = {
        "index": index,
        "visits": rng.integers(1, 5, count),
        "weight": weight,
        "variance": weight * rng.uniform(0, 1.1, count),
        "bonus": np.maximum(0.0, rng.normal(0.0, 0.1, count)),
        "fast": rng.random(count),
        "slow": rng.random(count),
        "fast_var": noise,
        "slow_var": noise / 2,
        "cross_var": noise / 2,
    }
    columns = book["columns"]
    for name, column in columns.items():
        columns[name] = np.asarray(figures.get(name, np.zeros(count)), dtype=column.dtype)
    book["keys"] = np.array([keys[i].encode() for i in index.tolist()], dtype=np.bytes_)
    book["unseen"] = unseen.state_dict()
    book["base_revision"] = REVISION
