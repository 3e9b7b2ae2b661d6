"""What a suite is: questions, a judge, and how verdicts become figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from astor_rl.evaluate.suites.statistics import Metric
from astor_rl.types import Example, Invalid, Message, Score

TOO_LONG = "too long"
"""Finish reason of a question that wasn't asked: its prompt leaves the model no room to answer."""
NOT_ASKED = "not asked"
"""Finish reason of a later try that wasn't made: what to say after the one before isn't known."""


@dataclass(frozen=True, slots=True)
class Question:
    """One example as it is put to the model."""

    example: Example
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to a question, in one of its turns."""

    question: Question
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a sample.

    Attributes:
        text: the completion.
        finish_reason: `stop`, `length`, `TOO_LONG` (then the verdict is that on an empty answer),
            or `NOT_ASKED`.
        verdict: of what was said; `Invalid` if the verifier failed.
    """

    text: str
    finish_reason: str
    verdict: Score | Invalid


@dataclass(frozen=True, slots=True)
class Graded:
    """A question with its samples, each a sequence of turns."""

    question: Question
    samples: tuple[tuple[Turn, ...], ...]

    def outcomes(self) -> list[float]:
        """Outcome of the first turn of each sample where it could be judged."""
        firsts = [sample[0].verdict for sample in self.samples]
        return [verdict.outcome for verdict in firsts if isinstance(verdict, Score)]

    def last(self) -> list[Score]:
        """The verdict on each judged sample's last turn."""
        return [s[-1].verdict for s in self.samples if isinstance(s[-1].verdict, Score)]


@dataclass(frozen=True, slots=True)
class Report:
    """What a suite found.

    Attributes:
        metrics: by name.
        notes: what a reader of the figures must know, one line each.
        parts: metrics of parts of the suite (languages), by the part's name.
        not_run: reason by part that wasn't run: those count nowhere.
        lacking: by metric, what keeps it from being the published one of its name.
    """

    metrics: Mapping[str, Metric]
    notes: tuple[str, ...] = ()
    parts: Mapping[str, Mapping[str, Metric]] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)


class Suite(Protocol):
    """A benchmark with its data."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def questions(self) -> Sequence[Question]:
        """In the data's order."""
        ...

    @property
    def turns(self) -> int:
        """Tries that a sample has; a later one is made when the earlier one failed."""
        ...

    @property
    def max_tokens(self) -> int:
        """Default length limit of a completion."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a completion."""
        ...

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """A verdict for each answer, in order."""
        ...

    async def follow_up(self, answer: Answer) -> str | Invalid | None:
        """What the model is told after a failed try.

        `Invalid` when that can't be found out, None when no other try makes sense.
        """
        ...

    def report(self, graded: Sequence[Graded]) -> Report:
        """The figures."""
        ...


class SingleTry:
    """What suites with one try share."""

    turns = 1
    stop: tuple[str, ...] = ()

    async def follow_up(self, answer: Answer) -> str | Invalid | None:
        """None: there is no other try."""
        return None


def failure(reason: str, metrics: Mapping[str, float] | None = None) -> Score:
    """The verdict on an answer that earns nothing."""
    return Score(0.0, 0.0, metrics or {}, reason[:200])


def mean_of_metric(graded: Sequence[Graded], name: str) -> list[float]:
    """A verdict's metric, averaged over each question's judged samples that have it."""
    means = []
    for one in graded:
        values = [score.metrics[name] for score in one.last() if name in score.metrics]
        if values:
            means.append(sum(values) / len(values))
    return means
