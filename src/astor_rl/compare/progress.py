"""How far running units are, and when all will be done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astor_rl.compare.units import Unit
from astor_rl.report.closing import TOKENS


class Tail:
    """Reads what a run adds to its metrics.

    Attributes:
        step: steps done.
        tokens: completion tokens sampled in them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget(None)

    def _forget(self, file: int | None) -> None:
        self._file, self._offset, self.step, self.tokens = file, 0, 0, 0

    def read(self) -> None:
        """Take in what is new. A run that went back to a checkpoint is read from its beginning."""
        try:
            stat = self._path.stat()
        except OSError:
            return
        # Going back to a checkpoint replaces the file.
        if stat.st_ino != self._file or stat.st_size < self._offset:
            self._forget(stat.st_ino)
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                except ValueError:  # replaced since `stat`
                    self._forget(None)
                    return
                self._offset += len(line)
                self.step, self.tokens = record["step"], self.tokens + int(record[TOKENS])


def describe(unit: Unit, tail: Tail) -> str:
    """Where a running unit is, in a few words."""
    if unit.kind != "run" or not tail.step:
        return unit.name
    return f"{unit.name} step {tail.step} {tail.tokens:,}/{unit.tokens:,} tokens"


@dataclass(frozen=True, slots=True)
class Work:
    """A unit as time goes: seconds it took so far, tokens it has sampled and may sample."""

    seconds: float
    tokens: int
    budget: int


def seconds_left(
    *, finished: Sequence[Work], running: Sequence[Work], waiting: Sequence[Work], jobs: int
) -> float | None:
    """When all will be done, at the seconds a token that units took; None before any is known.

    Units without a budget (starts, merges) are not counted. Finished units tell of their
    evaluations, too, so that running ones are not taken for done with their last token.
    """
    known = [work for work in finished if work.tokens] or [work for work in running if work.tokens]
    if not known:
        return None
    rate = sum(work.seconds for work in known) / sum(work.tokens for work in known)
    left = [
        *(
            max(rate * work.budget - work.seconds, rate * (work.budget - work.tokens), 0.0)
            for work in running
            if work.budget
        ),
        *(rate * work.budget for work in waiting),
    ]
    # The last of several jobs works alone: no less than the longest unit takes.
    return max(sum(left) / jobs, max(left, default=0.0))
