"""What every sampler does with a request: refuse what can't be, end at stop strings, wrap up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from astor_rl.errors import CapabilityError
from astor_rl.rollout.base import Request
from astor_rl.types import FinishReason, Rollout

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, special tokens left out."""

_STOP_SLACK = 4


def checked(request: Request, limit: int | None) -> Request:
    """The request, if it can be sampled.

    Args:
        request: to check.
        limit: the longest prompt and completion together, tokens; None for no limit.

    Raises:
        CapabilityError: it is empty, or longer than the limit.
    """
    if not request.prompt_ids or request.num_generations < 1 or request.max_tokens < 1:
        raise CapabilityError(
            f"request {request.id} has {len(request.prompt_ids)} prompt tokens, "
            f"{request.num_generations} generations and max_tokens {request.max_tokens}; "
            "each must be at least 1"
        )
    if not request.temperature >= 0:
        raise CapabilityError(
            f"request {request.id} has temperature {request.temperature}; it must be >= 0"
        )
    total = len(request.prompt_ids) + request.max_tokens
    if limit is not None and total > limit:
        raise CapabilityError(
            f"request {request.id} may reach {total} tokens; the sampler takes {limit} at most"
        )
    return request


def meets_stop_string(request: Request, tokens: Sequence[int], decode: Decode) -> bool:
    """Whether a stop string of the request ends in the newest token: only the tail is decoded."""
    if not request.stop:
        return False
    # A token is a byte at least; the slack covers a character cut at the tail's start.
    reach = max(len(s.encode()) for s in request.stop) + _STOP_SLACK
    tail = decode(tokens[-reach:])
    return any(s in tail for s in request.stop)


def finished(
    request: Request,
    index: int,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    *,
    reason: FinishReason,
    revision: int,
    decode: Decode,
) -> tuple[int, Rollout]:
    """(request id, rollout) of a completion that ended: every token was the policy's choice."""
    return request.id, Rollout(
        text=decode(tokens),
        prompt_ids=request.prompt_ids,
        completion_ids=tuple(tokens),
        logprobs=tuple(logprobs),
        loss_mask=(1,) * len(tokens),
        revision=revision,
        finish_reason=reason,
        index=index,
        messages=request.messages,
    )
