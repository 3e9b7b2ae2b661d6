"""The nouns that cross rooms: messages, examples, rollouts and their scores.

Standard library only, so that a reward worker or a replay can import them without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from astor_rl.errors import RewardError

FinishReason = Literal["stop", "length"]
"""`stop`: the model ended its turn (or met a stop string); `length`: it was cut."""


class Message(TypedDict):
    """One chat turn, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One thing a task can ask.

    Attributes:
        key: content hash (32 hex characters) of the task kind and `fields`; the same example has
            the same key on every machine and in every run.
        fields: the row, in the form its task documents. Read-only by convention.
        origin: where it came from, for people: `file.jsonl.gz:12`, `mine:toolz.take#3`.
        unit: the function, exercise or commit it was made from. Splits never separate a unit.
        difficulty: 0 (easy) to 1 (hard) as the source estimates it, or None when unknown.
    """

    key: str
    fields: Mapping[str, Any]
    origin: str
    unit: str
    difficulty: float | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion.

    Attributes:
        text: the completion decoded without special tokens.
        prompt_ids: token ids of the rendered prompt.
        completion_ids: sampled token ids, the end-of-turn token included when `stop`.
        logprobs: the sampler's log-probability of each completion token under the distribution
            it sampled from (temperature applied), nats.
        loss_mask: 1 for tokens the policy chose, 0 for tokens put there by the environment
            (another turn's prompt). Same length as `completion_ids`.
        revision: the policy revision that sampled it.
        finish_reason: see `FinishReason`.
        index: 0 .. G-1, its place in the group.
        messages: the conversation that was rendered into `prompt_ids`.
    """

    text: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    loss_mask: tuple[int, ...]
    revision: int
    finish_reason: FinishReason
    index: int
    messages: tuple[Message, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether the length limit cut it."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Score:
    """What a task thinks of a rollout.

    Attributes:
        outcome: did it do the job? In [0, 1]. The only part that statistics use.
        format: did it answer in the asked form? In [0, 1]. Shaping only.
        metrics: numbers for reports, by short name (`line_coverage`, `rouge_l`, ...).
        reason: why it scored so, one short line for people (`raised ValueError`, `wrong value`).

    Raises:
        RewardError: `outcome` or `format` is NaN or outside [0, 1].
    """

    outcome: float
    format: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("outcome", "format"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1):
                raise RewardError(f"{name} reward is {value!r}; it must be a number in [0, 1]")


@dataclass(frozen=True, slots=True)
class Invalid:
    """The verifier failed, not the model: the rollout leaves its group and is never a zero."""

    reason: str
