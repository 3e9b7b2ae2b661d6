"""Who samples completions: requests in, rollouts out as they finish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from astor_rl.types import Message, Rollout


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to sample a group of.

    Attributes:
        id: the caller's name for it (a plan slot); rollouts come back as (id, rollout).
        messages: the conversation, kept with the rollout.
        prompt_ids: its token ids, rendered by the caller with the model's chat template.
        num_generations: G >= 1.
        max_tokens: completion length limit.
        seed: of the random numbers its tokens are drawn with, whatever else is in the batch. The
            probabilities they are drawn from may differ in their last bits with the company.
        temperature: > 0 samples; 0 is greedy.
        stop: strings that end a completion (the text keeps them).
    """

    id: int
    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    num_generations: int
    max_tokens: int
    seed: int
    temperature: float = 1.0
    stop: tuple[str, ...] = ()


class Sampler(Protocol):
    """Samples completions from its own copy of the policy's weights."""

    def sample(self, requests: Iterable[Request]) -> Iterator[tuple[int, Rollout]]:
        """Yield (request id, rollout) as rollouts finish, so that rewards overlap generation."""
        ...

    def update_weights(self, named_tensors: Iterable[tuple[str, Any]], *, revision: int) -> None:
        """Replace the weights (adapter merged in) and drop caches made with the old ones."""
        ...
