"""A row of data before a task has made an example of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

TaskKind = Literal["io_prediction", "code_generation", "unit_test_generation", "commit_message"]
"""The kinds of task whose rows this room can make or knows the fields of."""

TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to ask, in the form its task documents.

    Attributes:
        fields: JSON values by name. `difficulty`, in [0, 1], is always there.
        origin: where it came from, for people: `train.jsonl.gz:12`, `mine:toolz.itertoolz.take#3`.
        unit: the function, exercise or commit it was made from; splits never separate a unit.
        place: where to look, for errors: `data/train.jsonl.gz:12`; empty where `origin` says it.
    """

    fields: dict[str, Any]
    origin: str
    unit: str
    place: str = field(default="", compare=False)

    @property
    def difficulty(self) -> float:
        """0 (easy) to 1 (hard), a cheap guess from sizes."""
        return float(self.fields.get("difficulty", 0.5))
