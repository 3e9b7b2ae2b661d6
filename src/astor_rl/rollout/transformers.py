"""Sampling with any transformers causal LM, made for groups that share a prompt.

A prompt is computed and kept once; its G completions decode together, leave the batch when they
end, and waiting groups take their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from astor_rl.errors import StateError
from astor_rl.rollout.base import Request
from astor_rl.rollout.cache import GroupedCache, Layout, token_bytes
from astor_rl.rollout.decoding import draw, uniforms
from astor_rl.rollout.owned_model import OwnedModel
from astor_rl.rollout.requests import Decode, checked, finished, meets_stop_string
from astor_rl.types import FinishReason, Rollout

_PREFILL_TOKENS = 4096


@dataclass
class _Row:
    """One running completion."""

    request: Request
    index: int
    group: int
    uniforms: NDArray[np.float64]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass
class _Running:
    """The rows and groups that are decoding now, both without gaps."""

    cache: GroupedCache = field(default_factory=GroupedCache)
    rows: list[_Row] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    layout: Layout | None = None

    @property
    def limit(self) -> int:
        """The longest completion that a row may reach."""
        return max(row.request.max_tokens for row in self.rows)


class TransformersSampler:
    """A `Sampler` that owns a copy of the policy in `dtype`.

    Determinism: the i-th token of completion j of a request is drawn with the i-th number of the
    Philox stream (request.seed, j), whatever else is in the batch. The logits it is drawn from are
    the model's; in bf16 their last bits may depend on how many rows are computed together, so a
    request sampled in other company can take another branch at a near tie. The same requests in
    the same order, with the same limits, thread count and machine, give bit-identical rollouts.

    Attributes:
        mode: `grouped` (shared prompts, continuous batch) or `plain` (one group at a time, for
            models whose attention or cache is special); see `OwnedModel`.
        revision: of the weights; rollouts carry it.

    Args:
        model: a plain transformers causal LM (its weights are copied), or a config (weights are
            random until `update_weights`). Merge adapters first: PEFT models are refused.
        decode: token ids -> text, special tokens left out.
        stop_token_ids: any of them ends a completion and is its last token.
        dtype: of the weights and the computation.
        device: where to sample.
        max_rows: completions decoded at once. A group larger than this runs alone.
        max_batch_tokens: prompt and completion tokens kept at once, counted as if every completion
            reached its limit. A group that needs more runs alone.
        kv_cache_bytes: memory for keys and values at most, counted the same way with what is
            padded; while it grows, one layer is there twice. A group that needs more runs alone.
            None sets no bound of its own.
        revision: of the weights given.

    Raises:
        CapabilityError: the model is an encoder-decoder, or has unmerged adapters.
    """

    def __init__(
        self,
        model: Any,
        *,
        decode: Decode,
        stop_token_ids: Sequence[int],
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        max_rows: int = 128,
        max_batch_tokens: int = 1 << 17,
        kv_cache_bytes: int | None = None,
        revision: int = 0,
    ) -> None:
        self._decode = decode
        self._stop_ids = frozenset(int(i) for i in stop_token_ids)
        self._device = torch.device(device)
        self._dtype = dtype
        self._max_rows = max_rows
        self._max_tokens = max_batch_tokens
        self.revision = revision
        self._model = OwnedModel(model, dtype, self._device)
        self._places = _places(model, dtype, kv_cache_bytes)
        self._active = 0
        self._loaded = not isinstance(model, PreTrainedConfig)

    @property
    def mode(self) -> Literal["grouped", "plain"]:
        """How the model is run; see `OwnedModel`."""
        return self._model.mode

    def update_weights(self, named_tensors: Iterable[tuple[str, Any]], *, revision: int) -> None:
        """Copy new weights in place.

        Args:
            named_tensors: (name, tensor) under the plain model's parameter names, any dtype and
                device. Every parameter must come, tied ones under at least one of their names.
            revision: of the new weights.

        Raises:
            StateError: a name is unknown, missing or there twice, a shape differs, or rollouts are
                being sampled. After an error the sampler refuses to sample until an update
                succeeds.
        """
        if self._active:
            raise StateError("weights can't change while rollouts are being sampled; finish them")
        self._loaded = False
        self._model.begin_update()
        seen: set[str] = set()
        for name, tensor in named_tensors:
            if name in seen:
                raise StateError(f"weight {name!r} comes twice in one update")
            self._model.set_weight(name, tensor)
            seen.add(name)
        self._model.names.require_all(seen)
        self.revision = revision
        self._loaded = True

    def sample(self, requests: Iterable[Request]) -> Iterator[tuple[int, Rollout]]:
        """Yield (request id, rollout) as rollouts finish; requests are drawn as room appears.

        Raises:
            StateError: the sampler has no valid weights yet.
            CapabilityError: a request is empty, or longer than the model's positions.
            ModelError: the model's logits are NaN.
        """
        if not self._loaded:
            raise StateError("the sampler has no complete weights; call update_weights first")
        valid = (checked(r, self._model.max_positions) for r in requests)
        self._active += 1
        try:
            if self.mode == "grouped":
                yield from self._sample_grouped(valid)
            else:
                yield from self._sample_plain(valid)
        finally:
            self._active -= 1

    def _sample_grouped(self, requests: Iterator[Request]) -> Iterator[tuple[int, Rollout]]:
        run, waiting = _Running(), next(requests, None)
        while True:
            chosen: list[Request] = []
            while waiting is not None and self._fits(run, chosen, waiting):
                chosen.append(waiting)
                waiting = next(requests, None)
            if chosen:
                yield from self._admit(run, chosen)
            elif run.rows:
                yield from self._step(run)
            elif waiting is None:
                return

    def _fits(self, run: _Running, chosen: Sequence[Request], request: Request) -> bool:
        if not run.rows and not chosen:
            if self._places_with(run, [request]) > self._places:
                run.cache = GroupedCache()  # what is empty gives its room back
            return True
        joined = [*chosen, request]
        rows = len(run.rows) + sum(r.num_generations for r in joined)
        tokens = sum(run.reserved) + sum(_most_tokens(r) for r in joined)
        prefill = sum(len(r.prompt_ids) for r in joined)
        return (
            rows <= self._max_rows
            and tokens <= self._max_tokens
            and self._places_with(run, joined) <= self._places
            and (not chosen or prefill <= _PREFILL_TOKENS)
        )

    @staticmethod
    def _places_with(run: _Running, joined: Sequence[Request]) -> int:
        requests = [*(row.request for row in run.rows), *joined]
        return run.cache.places(
            groups=len(run.lengths) + len(joined),
            prompt=max([*run.lengths, *(len(r.prompt_ids) for r in joined)]),
            rows=len(run.rows) + sum(r.num_generations for r in joined),
            limit=max(r.max_tokens for r in requests),
        )

    @torch.inference_mode()
    def _admit(self, run: _Running, chosen: Sequence[Request]) -> list[tuple[int, Rollout]]:
        first_row, first_slot = len(run.rows), len(run.lengths)
        for request in chosen:
            run.rows += _rows_of(request, range(request.num_generations), group=len(run.lengths))
            run.lengths.append(len(request.prompt_ids))
            run.reserved.append(_most_tokens(request))
        run.cache.reserve(
            groups=len(run.lengths),
            prompt=max(run.lengths),
            rows=len(run.rows),
            tokens=1,
            limit=run.limit,
        )
        prompts = [r.prompt_ids for r in chosen]
        logits = self._model.prefill(run.cache, prompts, first_slot=first_slot)
        fresh = run.rows[first_row:]
        ended = self._advance(fresh, logits, [row.group - first_slot for row in fresh])
        run.layout = None
        return self._retire(run, {first_row + i: reason for i, reason in ended.items()})

    @torch.inference_mode()
    def _step(self, run: _Running) -> list[tuple[int, Rollout]]:
        if run.layout is None:
            run.layout = Layout.of([row.group for row in run.rows], run.lengths, self._device)
        written = [len(row.tokens) - 1 for row in run.rows]
        most = max(written) + 1
        run.cache.reserve(groups=0, prompt=0, rows=0, tokens=most, limit=run.limit)
        tokens = [row.tokens[-1] for row in run.rows]
        logits = self._model.decode(run.cache, run.layout, tokens, written)
        return self._retire(run, self._advance(run.rows, logits, range(len(run.rows))))

    def _advance(
        self, rows: Sequence[_Row], logits_UV: Tensor, source: Sequence[int]
    ) -> dict[int, FinishReason]:
        """Draw a token for each row; which rows ended (by their place in `rows`), and why."""
        temperature = [1.0] * len(logits_UV)
        for row, u in zip(rows, source, strict=True):
            temperature[u] = row.request.temperature
        device = self._device
        tokens, logprobs = draw(
            logits_UV,
            torch.tensor(temperature, device=device),
            torch.tensor(list(source), device=device),
            torch.tensor([row.uniforms[len(row.tokens)] for row in rows], device=device).double(),
        )
        ended: dict[int, FinishReason] = {}
        drawn = zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
        for i, (row, token, logprob) in enumerate(drawn):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in self._stop_ids or meets_stop_string(row.request, row.tokens, self._decode):
                ended[i] = "stop"
            elif len(row.tokens) == row.request.max_tokens:
                ended[i] = "length"
        return ended

    def _retire(self, run: _Running, ended: dict[int, FinishReason]) -> list[tuple[int, Rollout]]:
        """Take ended rows, and groups without rows, out of the batch; close the gaps."""
        if not ended:
            return []
        done = [self._rollout(run.rows[i], reason) for i, reason in ended.items()]
        order = _close_gaps([i not in ended for i in range(len(run.rows))])
        run.cache.move_rows(*_moves(order))
        run.rows = [run.rows[i] for i in order]

        alive = {row.group for row in run.rows}
        order = _close_gaps([g in alive for g in range(len(run.lengths))])
        run.cache.move_groups(*_moves(order))
        run.lengths = [run.lengths[g] for g in order]
        run.reserved = [run.reserved[g] for g in order]
        slot = {old: new for new, old in enumerate(order)}
        for row in run.rows:
            row.group = slot[row.group]
        run.layout = None
        return done

    def _rollout(self, row: _Row, reason: FinishReason) -> tuple[int, Rollout]:
        return finished(
            row.request,
            row.index,
            row.tokens,
            row.logprobs,
            reason=reason,
            revision=self.revision,
            decode=self._decode,
        )

    def _sample_plain(self, requests: Iterator[Request]) -> Iterator[tuple[int, Rollout]]:
        for request in requests:
            length = len(request.prompt_ids) + request.max_tokens
            most = int(max(1, min(self._max_rows, self._places // length)))
            for start in range(0, request.num_generations, most):
                stop = min(start + most, request.num_generations)
                rows = _rows_of(request, range(start, stop), group=0)
                past: Any = None
                live = list(range(len(rows)))
                while live:
                    logits, past = self._model.plain(_sequences(rows, past), past)
                    ended = self._plain_advance(rows, live, logits)
                    yield from (self._rollout(rows[i], reason) for i, reason in ended.items())
                    live = [i for i in live if i not in ended]

    @torch.inference_mode()
    def _plain_advance(
        self, rows: Sequence[_Row], live: Sequence[int], logits: Tensor
    ) -> dict[int, FinishReason]:
        ended = self._advance([rows[i] for i in live], logits, live)
        return {live[i]: reason for i, reason in ended.items()}


def _rows_of(request: Request, indices: Iterable[int], *, group: int) -> list[_Row]:
    return [_Row(request, i, group, uniforms(request.seed, i, request.max_tokens)) for i in indices]


def _sequences(rows: Sequence[_Row], past: Any) -> list[list[int]]:
    """What `OwnedModel.plain` is fed; ended rows repeat their last token, which nobody reads."""
    if past is not None:
        return [row.tokens[-1:] for row in rows]
    longest = max(len(row.tokens) for row in rows)
    return [
        [*row.request.prompt_ids, *row.tokens, *row.tokens[-1:] * (longest - len(row.tokens))]
        for row in rows
    ]


def _places(model: Any, dtype: torch.dtype, kv_cache_bytes: int | None) -> float:
    """Tokens whose keys and values fit."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    each = token_bytes(config, dtype)
    return kv_cache_bytes // each if kv_cache_bytes is not None and each else float("inf")


def _most_tokens(request: Request) -> int:
    return len(request.prompt_ids) + request.num_generations * request.max_tokens


def _close_gaps(alive: Sequence[bool]) -> list[int]:
    """The living, those beyond the new end moved into the gaps: as few moves as can be."""
    count = sum(alive)
    movers = iter(range(count, len(alive)))
    return [i if alive[i] else next(j for j in movers if alive[j]) for i in range(count)]


def _moves(order: Sequence[int]) -> tuple[list[int], list[int]]:
    moved = [(source, target) for target, source in enumerate(order) if source != target]
    return [source for source, _ in moved], [target for _, target in moved]
