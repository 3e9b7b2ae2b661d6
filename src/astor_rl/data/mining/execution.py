"""Running mined functions in the sandbox: many calls of many versions in one job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from astor_rl.sandbox.api import CallJob, Limits, Outcome, SandboxPool

_LIMITS = Limits(wall_s=2.0, cpu_s=1.0, memory_mb=384)


@dataclass(frozen=True, slots=True)
class Observation:
    """What one call did.

    Attributes:
        verdict: `value`, or why there is none (see `_observer.observe`).
        text: the result as a literal; the exception's name when it raised.
        lazy: whether the result was an iterator (the text is the list of its items).
        lines: source lines executed.
    """

    verdict: str
    text: str
    lazy: bool
    lines: int

    @property
    def same_as(self) -> tuple[str, str]:
        """What makes two observations the same behaviour."""
        return self.verdict, self.text


@dataclass(frozen=True, slots=True)
class Trial:
    """Calls to make of several versions of one function.

    Attributes:
        sources: whole sources that define `name`.
        name: the function.
        texts: arguments as they stand between the parentheses.
        max_text: longest result that is wanted, characters.
        budget: executed lines a call may take.
        repeat: how often the whole is run from scratch; 2 shows what isn't deterministic.
    """

    sources: tuple[str, ...]
    name: str
    texts: tuple[str, ...]
    max_text: int = 60
    budget: int = 3000
    repeat: int = 1

    def job(self) -> CallJob:
        """The sandbox job."""
        call = (
            f"run(_SOURCES, {self.name!r}, _TEXTS, max_text={self.max_text}, budget={self.budget})"
        )
        tables = f"_SOURCES = {list(self.sources)!r}\n_TEXTS = {list(self.texts)!r}\n"
        return CallJob(
            code=f"{_observer()}\n\n{tables}", calls=(call,), repeat=self.repeat, limits=_LIMITS
        )


@cache
def _observer() -> str:
    return files("astor_rl.data.mining").joinpath("_observer.py").read_text(encoding="utf-8")


def run_trials(
    trials: Sequence[Trial], sandbox: SandboxPool
) -> Iterator[tuple[tuple[Observation, ...], ...]]:
    """For each trial a table: one row a source, one observation a text.

    A source that doesn't load has an empty row; a trial that timed out, crashed or gave
    different results when repeated has no rows at all.
    """
    jobs: Iterable[CallJob] = (trial.job() for trial in trials)
    for trial, outcome in zip(trials, sandbox.map(jobs), strict=True):
        yield _table(outcome, trial)


def _table(outcome: Outcome, trial: Trial) -> tuple[tuple[Observation, ...], ...]:
    if outcome.status != "ok" or len(outcome.calls) != 1 or outcome.calls[0].kind != "value":
        return ()
    table = outcome.calls[0].value
    if not isinstance(table, list) or len(table) != len(trial.sources):
        return ()
    rows = tuple(_row(row, len(trial.texts)) for row in table)
    return () if any(row is None for row in rows) else tuple(row for row in rows if row is not None)


def _row(row: Any, count: int) -> tuple[Observation, ...] | None:
    """The mined code shares the observer's process: what comes back is checked, not believed."""
    if not isinstance(row, list) or len(row) not in (0, count):
        return None
    found = []
    for entry in row:
        match entry:
            case (str(verdict), str(text), bool(lazy), int(lines)):
                found.append(Observation(verdict, text, lazy, lines))
            case _:
                return None
    return tuple(found)
