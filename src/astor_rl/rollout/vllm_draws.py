"""Inside vLLM's sampling step: our draws instead of its own.

vLLM's seeded sampling draws a random number per logit and request, one request after the other,
and fails on CPU where a prompt is computed in several pieces. Here a logits processor (a public
interface of vLLM) draws as `TransformersSampler` does, one number per token, notes the log-prob,
and leaves the drawn token as the only one that vLLM's greedy step can take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from astor_rl.errors import ModelError
from astor_rl.rollout.decoding import draw

KEY = "astor_completion"
"""Name in `SamplingParams.extra_args` of a completion's number in the journal."""


@dataclass(slots=True)
class Draws:
    """One completion's random numbers, and the log-probs of what was drawn with them, nats."""

    temperature: float
    uniforms: NDArray[np.float64]
    logprobs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Journal:
    """What a sampler and the processor in its engine share.

    Attributes:
        draws: by the completion's number.
        error: what went wrong while drawing: vLLM must not see exceptions of ours, it would be
            left in the middle of a step.
    """

    draws: dict[int, Draws] = field(default_factory=dict)
    error: ModelError | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """A place in vLLM's batch.

    Attributes:
        draws: of the completion there.
        tokens: what it has so far; vLLM's own list, which grows.
    """

    draws: Draws
    tokens: Sequence[int]


def processor(journal: Journal) -> type[LogitsProcessor]:
    """A processor class for one engine: vLLM makes the instance, so the journal is in the class."""

    class DrawTokens(LogitsProcessor):  # type: ignore[misc]
        """Draws for every row whose request names a completion of the journal."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            self._rows: dict[int, _Row] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            process_dict_updates(self._rows, batch_update, _new_row)

        def apply(self, logits: Tensor) -> Tensor:
            if self._rows:
                try:
                    _draw(logits, self._rows)
                except ModelError as error:
                    journal.error = error
            return logits

    def _new_row(params: Any, prompt: list[int] | None, tokens: list[int]) -> _Row | None:
        number = (params.extra_args or {}).get(KEY)
        return None if number is None else _Row(journal.draws[number], tokens)

    return DrawTokens


@torch.inference_mode()
def _draw(logits_RV: Tensor, rows: dict[int, _Row]) -> None:
    """Draw for each of `rows` (by row of the logits) and make its token the largest logit."""
    places = sorted(rows)
    chosen = [rows[place] for place in places]
    done = [len(row.tokens) for row in chosen]
    temperature = [1.0] * len(logits_RV)
    for place, row in zip(places, chosen, strict=True):
        temperature[place] = row.draws.temperature
    device = logits_RV.device
    source = torch.tensor(places, device=device)
    uniform = [row.draws.uniforms[i] for row, i in zip(chosen, done, strict=True)]
    tokens, logprobs = draw(
        logits_RV,
        torch.tensor(temperature, device=device),
        source,
        torch.tensor(uniform, dtype=torch.float64, device=device),
    )
    logits_RV[source, tokens] = torch.inf
    for row, i, logprob in zip(chosen, done, logprobs.tolist(), strict=True):
        # A prompt computed in pieces is drawn for after each, and a preempted row again from
        # where it was: only the last draw of a place counts.
        del row.draws.logprobs[i:]
        row.draws.logprobs.append(logprob)
