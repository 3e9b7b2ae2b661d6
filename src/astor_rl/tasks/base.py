"""What a coding task is. Users write their own against this protocol.

A task knows its prompt, how to read an answer, and how to score it. It knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from astor_rl.sandbox.api import SandboxPool
from astor_rl.types import Example, Invalid, Message, Rollout, Score

Pair = tuple[Example, Rollout]


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Whether a task can tell right from wrong on given examples.

    Attributes:
        checked: examples looked at.
        gold_below_ceiling: (origin, outcome, reason) of gold answers below the task's ceiling.
        broken_at_ceiling: (origin, variant, outcome) of broken answers that were not told apart.
        invalid: (origin, reason) of gold answers the verifier could not judge.
    """

    checked: int
    gold_below_ceiling: tuple[tuple[str, float, str], ...]
    broken_at_ceiling: tuple[tuple[str, str, float], ...]
    invalid: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        """True when every gold answer reached the ceiling and every broken one stayed below."""
        return not (self.gold_below_ceiling or self.broken_at_ceiling or self.invalid)


@runtime_checkable
class Task(Protocol):
    """A coding task.

    Attributes:
        kind: the name a config's `task = "..."` uses.
        verdict: `unforgeable` (a rollout can't fake a pass) or `detected-only`, with the reason
            in the class's docstring.
    """

    kind: str
    verdict: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sandbox: SandboxPool | None) -> Self:
        """Build from `[tasks.options]` (plain JSON values), so that a remote worker can too.

        Raises:
            ConfigError: an unknown option or a bad value.
        """
        ...

    def example(self, row: Mapping[str, Any], *, origin: str, unit: str | None = None) -> Example:
        """Check one row and make an example of it.

        Raises:
            DataError: a field is missing or of the wrong type; names `origin` and the field.
        """
        ...

    def prompt(self, example: Example) -> list[Message]:
        """The conversation that asks it."""
        ...

    def answer(self, example: Example) -> str:
        """The reference answer in the task's answer format: warm-up text and `validate` gold."""
        ...

    def broken(self, example: Example) -> Mapping[str, str]:
        """Named wrong answers (right form, wrong content) that must score below the ceiling."""
        ...

    def ceiling(self, example: Example) -> float:
        """The outcome that a perfect answer reaches on this example."""
        ...

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        """Judge rollouts, batched across groups; the result aligns with `pairs`."""
        ...

    async def respond(self, example: Example, messages: Sequence[Message]) -> list[Message] | None:
        """The environment's next turn after the model's, or None when the episode is over."""
        ...

    async def validate(self, examples: Sequence[Example]) -> ValidationReport:
        """Score `answer` and every `broken` variant of each example."""
        ...
