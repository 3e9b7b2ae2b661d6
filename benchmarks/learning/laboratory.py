"""The laboratories: which seed, how much data, what the supervised start sees."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from astor_rl.tasks.base import Task
from astor_rl.tasks.registry import make_task
from benchmarks.common import ROOT
from benchmarks.learning.programs import Language, Program, make_language
from benchmarks.learning.rows import LEVELS, Maker, Row, make_maker

FOLDER: Final = ROOT / "runs" / "learning"
"""Where data and models are built; nothing of it is committed."""

KINDS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "io": ("io_prediction", {}),
    "code": ("code_generation", {"shown_tests": 0}),
    "tests": ("unit_test_generation", {"answer_asserts": 1}),
    "commits": ("commit_message", {"synonyms": "off"}),
}
"""Kind and options of each task, as in the run files."""


@dataclass(frozen=True, slots=True)
class Laboratory:
    """One laboratory.

    Attributes:
        name: of its folder.
        seed: of everything in it.
        levels: weights of the levels in the data, easy to hard.
        start_levels: the same for the supervised start.
        start_rare: how often the supervised start draws rare operations, compared with common ones.
        start_steps: its optimiser steps on right answers.
        slip_steps: its last steps, on answers some of which are wrong.
        slips: share of wrong answers in them, by task.
        units: functions by split; each gives one row of every task.
    """

    name: str
    seed: int
    levels: tuple[float, ...] = (0.2,) * LEVELS
    start_levels: tuple[float, ...] = (0.4, 0.3, 0.2, 0.08, 0.02)
    start_rare: float = 0.2
    start_steps: int = 900
    slip_steps: int = 150
    slips: tuple[tuple[str, float], ...] = (
        ("io", 0.3),
        ("code", 0.45),
        ("tests", 0.3),
        ("commits", 0.25),
    )
    units: tuple[tuple[str, int], ...] = (("test", 320), ("validation", 64), ("train", 240))

    @property
    def folder(self) -> Path:
        """Where it is built."""
        return FOLDER / self.name

    def language(self) -> Language:
        """Its operations and words."""
        return make_language(self.seed)

    def maker(self, *, rare: float = 1.0) -> Maker:
        """Makes its rows."""
        return make_maker(self.seed, self.language(), rare=rare)

    def draws(
        self, purpose: str, levels: tuple[float, ...], *, rare: float
    ) -> Iterator[tuple[Program, dict[str, Row]]]:
        """Endless random programs with their rows; another purpose gives another stream."""
        rng = random.Random(f"{self.seed} {purpose}")
        maker = self.maker(rare=rare)
        while True:
            (level,) = rng.choices(range(LEVELS), levels)
            yield maker.unit(rng, level)


LABORATORIES: Final = {lab.name: lab for lab in (Laboratory("a", 11), Laboratory("b", 23))}


def make_tasks() -> dict[str, Task]:
    """The product's tasks as the laboratories use them: they prompt and answer, but can't judge."""
    return {name: make_task(kind, options, None) for name, (kind, options) in KINDS.items()}
