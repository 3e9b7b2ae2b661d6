"""Sampling with vLLM in this process, behind the same waist as `TransformersSampler`."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from astor_rl.errors import AstorError, CapabilityError, StateError
from astor_rl.rollout import vllm_engine
from astor_rl.rollout.base import Request
from astor_rl.rollout.decoding import uniforms
from astor_rl.rollout.names import WeightNames
from astor_rl.rollout.requests import Decode, checked, finished, meets_stop_string
from astor_rl.types import Rollout

_KV_CACHE_BYTES: Final = 4 << 30
_TRIAL_TOKENS: Final = 40
_TRIAL_GAP: Final = {2: 0.25, 4: 0.01}
"""Nats, by bytes of the dtype: tens of times what rounding does, a fraction of what a bug does."""
_PARTS: Final = ("weights", "kv_cache")
"""What sleeps, in vLLM's words."""


@dataclass(frozen=True, slots=True)
class _Running:
    """One completion in the engine, known there by its number."""

    number: int
    request: Request
    index: int


class VllmSampler:
    """A `Sampler` that owns a vLLM engine with its own copy of the weights.

    Determinism: as `TransformersSampler`, with the same random numbers: the i-th token of
    completion j of a request is drawn with the i-th number of the Philox stream
    (request.seed, j). The prefix cache is emptied when sampling starts, so that what was sampled
    before changes nothing: the same requests in the same order, with the same limits, thread
    count and machine, give bit-identical rollouts, also in a process that began later.

    One to a process: vLLM takes down what all its engines in a process share when one of them is
    garbage-collected, so a second sampler works only while the first is kept.

    Attributes:
        revision: of the weights; rollouts carry it.

    Args:
        model: a plain transformers causal LM (its weights are copied), or a config (there are no
            weights until `update_weights`). Merge adapters first: PEFT models are refused.
        decode: token ids -> text, special tokens left out.
        stop_token_ids: any of them ends a completion and is its last token.
        dtype: of the weights and the computation.
        device: where to sample; the installed vLLM must be built for it.
        max_rows: completions decoded at once.
        max_length: longest prompt and completion together, tokens; None takes the model's.
        kv_cache_bytes: memory for keys and values at most.
        sleep: give memory back after sampling (weights to main memory, keys and values dropped)
            until it is needed again; None does so on CUDA, where the update needs it.
        revision: of the weights given.

    Raises:
        DependencyError: vLLM is not installed.
        CapabilityError: vLLM can't run the model here, computes something else than the model
            itself on a short example, or the model has unmerged adapters.
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
        max_length: int | None = None,
        kv_cache_bytes: int = _KV_CACHE_BYTES,
        sleep: bool | None = None,
        revision: int = 0,
    ) -> None:
        if hasattr(model, "peft_config"):
            raise CapabilityError("the sampler takes a plain model; merge the adapter first")
        self._decode = decode
        self._stop_ids = frozenset(int(i) for i in stop_token_ids)
        self._dtype = dtype
        self._max_rows = max_rows
        self._device = torch.device(device)
        self._sleeps = self._device.type == "cuda" if sleep is None else sleep
        plain = _skeleton(model) if isinstance(model, PreTrainedConfig) else model
        self._names = WeightNames(plain)
        self._limit = _limit(plain.config, max_length)
        self._journal: Any = None
        self._engine = vllm_engine.start(
            plain.config,
            type(plain).__name__,
            processor=self._make_processor,
            dtype=dtype,
            device=self._device,
            max_rows=max_rows,
            max_length=self._limit,
            kv_cache_bytes=kv_cache_bytes,
        )
        self._next = 0
        self._active = False
        self._loaded = False
        self._tainted = False
        self._asleep: set[str] = set()
        self.revision = revision
        if plain is model:
            self.update_weights(model.named_parameters(), revision=revision)
            self._check_against(model)

    def _make_processor(self) -> type[Any]:
        # Imports vLLM, which must not happen where it isn't used.
        from astor_rl.rollout.vllm_draws import Journal, processor

        self._journal = Journal()
        return processor(self._journal)

    def _check_against(self, model: Any) -> None:
        """Sample a little and compare log-probs with the model's own forward.

        vLLM has its own code for each architecture, and its kernels fail on some shapes only when
        they run.
        """
        length = max(1, min(_TRIAL_TOKENS, self._limit // 2))
        prompt = tuple(
            (7 + 13 * i) % len(model.get_input_embeddings().weight) for i in range(length)
        )
        request = Request(0, (), prompt, 2, min(4, self._limit - length), seed=0)
        try:
            rollouts = [rollout for _, rollout in self.sample([request])]
        except AstorError:
            raise
        except Exception as error:  # whatever a kernel raises
            said = " ".join(str(error).split())[:300]
            raise CapabilityError(f"vLLM can't run the model: {said}") from error
        gaps = [
            abs(a - b) for r in rollouts for a, b in zip(r.logprobs, _own(model, r), strict=True)
        ]
        gap = sum(gaps) / len(gaps)
        if not gap <= _TRIAL_GAP[self._dtype.itemsize]:
            raise CapabilityError(
                f"vLLM's log-probs differ from the model's own by {gap:.2g} nats on average"
            )

    def update_weights(self, named_tensors: Iterable[tuple[str, Any]], *, revision: int) -> None:
        """Replace the weights in place, one tensor at a time; what was cached with the old goes.

        Args:
            named_tensors: (name, tensor) under the plain model's parameter names, any dtype and
                device. Every parameter must come, tied ones under at least one of their names.
            revision: of the new weights.

        Raises:
            StateError: a name is unknown or missing, a shape differs, or rollouts are being
                sampled. After an error the sampler refuses to sample until an update succeeds.
        """
        if self._active:
            raise StateError("weights can't change while rollouts are being sampled; finish them")
        self._loaded = False
        self._wake("weights")
        stream = _Stream(named_tensors, self._names, self._dtype)
        vllm_engine.replace_weights(self._engine, iter(stream))
        if stream.error is not None:
            raise stream.error
        self._names.require_all(stream.seen)
        self._drop_cache()
        self.revision = revision
        self._loaded = True

    def sample(self, requests: Iterable[Request]) -> Iterator[tuple[int, Rollout]]:
        """Yield (request id, rollout) as rollouts finish; requests are drawn as room appears.

        Raises:
            StateError: the sampler has no valid weights yet, or is sampling already.
            CapabilityError: a request is empty, or longer than the sampler's limit.
            ModelError: the model's logits are NaN.
        """
        if not self._loaded:
            raise StateError("the sampler has no complete weights; call update_weights first")
        if self._active:
            raise StateError("the sampler is sampling already; finish those rollouts")
        self._active = True
        running: dict[str, _Running] = {}
        try:
            self._wake(*_PARTS)
            if self._tainted:
                vllm_engine.zero_cache(self._engine)
                self._tainted = False
            self._drop_cache()
            yield from self._run(iter(requests), running)
        finally:
            self._engine.abort_request(list(running))
            self._journal.draws.clear()
            self._journal.error = None
            self._active = False
            if self._sleeps:
                self._engine.sleep(level=1)
                self._asleep.update(_PARTS)

    def _run(
        self, requests: Iterator[Request], running: dict[str, _Running]
    ) -> Iterator[tuple[int, Rollout]]:
        while True:
            # Groups share their prompt's blocks because all of a group is there from the start.
            while len(running) < self._max_rows:
                request = next(requests, None)
                if request is None:
                    break
                self._submit(checked(request, self._limit), running)
            if not running:
                return
            outputs = self._engine.step()
            if self._journal.error is not None:
                self._tainted = True
                raise self._journal.error
            for output in outputs:
                yield from self._ended(output, running)

    def _submit(self, request: Request, running: dict[str, _Running]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from astor_rl.rollout.vllm_draws import KEY, Draws

        for index in range(request.num_generations):
            number, self._next = self._next, self._next + 1
            self._journal.draws[number] = Draws(
                request.temperature, uniforms(request.seed, index, request.max_tokens)
            )
            # Greedy, because the draw is made before vLLM looks.
            params = SamplingParams(
                temperature=0.0,
                max_tokens=request.max_tokens,
                ignore_eos=True,
                stop_token_ids=sorted(self._stop_ids),
                detokenize=False,
                extra_args={KEY: number},
                output_kind=RequestOutputKind.CUMULATIVE
                if request.stop
                else RequestOutputKind.FINAL_ONLY,
            )
            name = str(number)
            running[name] = _Running(number, request, index)
            prompt = {"prompt_token_ids": list(request.prompt_ids)}
            self._engine.add_request(name, prompt, params)

    def _ended(self, output: Any, running: dict[str, _Running]) -> Iterator[tuple[int, Rollout]]:
        name = output.request_id
        one = running[name]
        tokens = list(output.outputs[0].token_ids)
        stopped = tokens[-1] in self._stop_ids or meets_stop_string(
            one.request, tokens, self._decode
        )
        if not (stopped or output.finished):
            return
        if not output.finished:
            self._engine.abort_request([name])
        del running[name]
        draws = self._journal.draws.pop(one.number)
        yield finished(
            one.request,
            one.index,
            tokens,
            draws.logprobs[: len(tokens)],
            reason="stop" if stopped else "length",
            revision=self.revision,
            decode=self._decode,
        )

    def _drop_cache(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise StateError("vLLM still holds blocks of old rollouts; its cache can't be emptied")

    def _wake(self, *parts: str) -> None:
        # vLLM wakes nothing at all when it is asked for a part that is awake.
        if asleep := self._asleep.intersection(parts):
            self._release()
            self._engine.wake_up(tags=sorted(asleep))
            self._asleep -= asleep

    def _release(self) -> None:
        """Give back what torch keeps for later: vLLM takes its memory from the device itself."""
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


class _Stream:
    """Checks weights on their way into the engine.

    An error ends the stream instead of passing through vLLM, which would be left with layers that
    are half taken apart; it is kept here.
    """

    def __init__(
        self, tensors: Iterable[tuple[str, Tensor]], names: WeightNames, dtype: torch.dtype
    ) -> None:
        self._tensors = tensors
        self._names = names
        self._dtype = dtype
        self.seen: set[str] = set()
        self.error: AstorError | None = None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        try:
            for name, tensor in self._tensors:
                self._names.check(name, tensor)
                first = self._names.ties[name][0]
                if first not in self.seen:
                    self.seen.add(first)
                    yield first, tensor.detach().to(self._dtype)
        except AstorError as error:
            self.error = error


@torch.inference_mode()
def _own(model: Any, rollout: Rollout) -> list[float]:
    """The log-probs that the model itself gives a completion sampled at temperature 1."""
    device = model.get_input_embeddings().weight.device
    prompt, completion = rollout.prompt_ids, torch.tensor(rollout.completion_ids, device=device)
    ids = torch.tensor([prompt + rollout.completion_ids], device=device)
    logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    own: list[float] = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0].tolist()
    return own


def _skeleton(config: PreTrainedConfig) -> Any:
    """The model of a config without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _limit(config: PreTrainedConfig, wanted: int | None) -> int:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    known = [n for n in (positions, wanted) if n is not None]
    if not known:
        raise CapabilityError("the model has no limit of positions; vLLM needs a max_length")
    return min(known)
