"""Log-probs of completions from a Hugging Face causal model, packed or one by one.

The model is used through its public parts: `get_decoder()` with a four-dimensional mask and
position ids, then `get_output_embeddings()` on the rows that predict completion tokens. PEFT's
wrapper passes both through; switch its adapter off around the call for the reference policy
(`with model.disable_adapter(): ...`). A wrapper whose own forward does work (DDP, FSDP1) is
bypassed: reduce gradients yourself, or shard with FSDP2, whose hooks sit in the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from astor_rl.errors import AstorError, CapabilityError, ConfigError
from astor_rl.policy.head import logit_transform, token_logprobs
from astor_rl.policy.masks import block_mask, dense_mask
from astor_rl.policy.packing import Packed, TokenGroup, pack_groups
from astor_rl.policy.support import (
    FULL,
    SLIDING,
    layer_kinds,
    sliding_window,
    text_config,
    unpackable_reasons,
)
from astor_rl.policy.tree_attention import TREE_ATTENTION, Tree, register

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Mean absolute difference of log-probs, nats, that the trial run accepts, by the model's type."""

HALF_TOLERANCE = 0.2
"""The same for 16-bit types: logits of 16 to 32 are 0.125 apart in bfloat16."""


def completion_logprobs(
    model: Any,
    packed: Packed,
    temperature: float = 1.0,
    *,
    chunk: int | None = None,
    unpacked: bool = False,
) -> Tensor:
    """Log-probs of a bin's completion tokens, fp32 [T], nats.

    Args:
        model: a causal model of transformers, or PEFT's wrapper of one.
        packed: the bin; moved to the model's device.
        temperature: the sampler's, > 0; divides the logits.
        chunk: completion tokens whose logits exist at once; None chooses by memory.
        unpacked: run separate sequences, right-padded block by block, for models that
            `check_packable` refuses; each prompt is computed again for every completion.

    Raises:
        CapabilityError: the model scales its logits in a way not known.
        ConfigError: the temperature isn't positive.
    """
    return _token_stats(model, packed, temperature, chunk, unpacked, with_entropy=False)[0]


def completion_logprobs_and_entropies(
    model: Any,
    packed: Packed,
    temperature: float = 1.0,
    *,
    chunk: int | None = None,
    unpacked: bool = False,
) -> tuple[Tensor, Tensor]:
    """(log-probs, entropies), both fp32 [T], nats; entropies have no graph.

    Arguments and errors are those of `completion_logprobs`; one more pass over the logits.
    """
    return _token_stats(model, packed, temperature, chunk, unpacked, with_entropy=True)


def _token_stats(
    model: Any,
    packed: Packed,
    temperature: float,
    chunk: int | None,
    unpacked: bool,
    *,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature!r}; it must be > 0 to compute log-probs")
    decoder, head = _parts(model)
    packed = packed.to(_device(model))
    if unpacked:
        hidden_TD = torch.cat([_separate_hidden(decoder, rows) for rows in _sequences(packed)])
    else:
        hidden_TD = _packed_hidden(model, decoder, packed)
    return token_logprobs(
        hidden_TD,
        packed.target_T,
        head,
        logit_transform(text_config(model)),
        temperature=temperature,
        chunk=chunk,
        with_entropy=with_entropy,
    )


def check_packable(model: Any, *, trial: bool = True) -> str | None:
    """Why `model` can't be packed, in one line, or None when it can.

    What the configuration and modules tell is checked first. Then a trial run compares a few
    packed tokens with the model's own forward on separate sequences: it finds architectures that
    ignore a four-dimensional mask or position ids, or scale their logits in an unknown way. It
    can't find what only shows beyond a few tokens.

    Args:
        model: a causal model of transformers, or PEFT's wrapper of one.
        trial: run it too; two passes over about 20 tokens.
    """
    reason = next(unpackable_reasons(model), None)
    if reason is None and trial:
        reason = _trial_reason(model)
    return reason


def prepare_packing(model: Any) -> str | None:
    """Set the model to the attention that suits packed sequences best, and check it.

    flex_attention on CUDA, tree attention elsewhere; where the model can't be packed with that,
    its own attention is restored and tried. Call it once, before training: gradient checkpointing
    must find the same attention in the backward pass.

    Args:
        model: a causal model of transformers, or PEFT's wrapper of one.

    Returns:
        Why the model can't be packed at all (see `check_packable`), or None.
    """
    own = text_config(model)._attn_implementation
    register()
    preferred = "flex_attention" if model.device.type == "cuda" else TREE_ATTENTION
    try:
        model.set_attn_implementation(preferred)
    except (ValueError, ImportError):
        return check_packable(model)
    if check_packable(model) is None:
        return None
    model.set_attn_implementation(own)
    return check_packable(model)


def _parts(model: Any) -> tuple[Any, Any]:
    """The decoder and the output embedding, adapters included."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if decoder is None or head is None:
        raise CapabilityError(
            f"model type {text_config(model).model_type!r} has no decoder or no output embedding; "
            "a causal language model is needed"
        )
    return decoder, head


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device


def _attention(model: Any, packed: Packed) -> dict[str, Any]:
    """The decoder's arguments that say who sees whom, for the attention the model is set to."""
    config = text_config(model)
    kinds, window = layer_kinds(config), sliding_window(config)
    if config._attn_implementation == TREE_ATTENTION:
        # Four-dimensional, so that the model makes none of its own; empty, so that a model that
        # loses the tree on the way to its attention fails instead of seeing everything.
        none = packed.input_ids_S.new_empty(1, 1, 0, 0, dtype=torch.bool)
        masks: Any = dict.fromkeys(kinds, none) if len(kinds) > 1 else none
        return {"attention_mask": masks, "tree": Tree.of(packed)}
    full = _mask(model, packed, None) if FULL in kinds else None
    if SLIDING not in kinds:
        return {"attention_mask": full}
    fits = full is not None and int(packed.position_ids_S.max()) < (window or 0)
    sliding = full if fits else _mask(model, packed, window)
    return {"attention_mask": sliding if full is None else {FULL: full, SLIDING: sliding}}


def _mask(model: Any, packed: Packed, window: int | None) -> Any:
    """One kind of layer's mask, dense in the type attention computes in, or in blocks."""
    if text_config(model)._attn_implementation == "flex_attention":
        return block_mask(packed, window)
    device_type = packed.input_ids_S.device.type
    if torch.is_autocast_enabled(device_type):
        return dense_mask(packed, torch.get_autocast_dtype(device_type), window)
    return dense_mask(packed, model.get_input_embeddings().weight.dtype, window)


def _packed_hidden(model: Any, decoder: Any, packed: Packed) -> Tensor:
    """Hidden states of the predicting rows from one pass over the whole bin, [T, D]."""
    hidden_SD = decoder(
        input_ids=packed.input_ids_S[None],
        position_ids=packed.position_ids_S[None],
        use_cache=False,
        **_attention(model, packed),
    ).last_hidden_state[0]
    return torch.as_tensor(hidden_SD.index_select(0, packed.row_T))


def _sequences(packed: Packed) -> Iterator[list[tuple[Tensor, int]]]:
    """For each block, (input ids, first predicting row) of each of its completions."""
    prompts = {
        int(block): packed.input_ids_S[(packed.block_S == block) & (packed.branch_S == 0)]
        for block in torch.unique(packed.block_S)
    }
    _, lengths = torch.unique_consecutive(packed.sample_T, return_counts=True)
    rows: dict[int, list[tuple[Tensor, int]]] = {block: [] for block in prompts}
    start = 0
    for length in lengths.tolist():
        block = int(packed.block_S[packed.row_T[start]])
        ids = torch.cat([prompts[block], packed.target_T[start : start + length - 1]])
        rows[block].append((ids, len(prompts[block]) - 1))
        start += length
    for block, sequences in rows.items():
        # Only empty completions: the prompt, of which no row is asked.
        yield sequences or [(prompts[block], len(prompts[block]))]


def _separate_hidden(decoder: Any, rows: list[tuple[Tensor, int]]) -> Tensor:
    """Hidden states of the predicting rows of one block's completions, in order, [T', D]."""
    input_ids = pad_sequence([ids for ids, _ in rows], batch_first=True)
    lengths = torch.tensor([len(ids) for ids, _ in rows], device=input_ids.device)
    mask = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]
    hidden = decoder(
        input_ids=input_ids, attention_mask=mask.long(), use_cache=False
    ).last_hidden_state
    return torch.cat(
        [states[first : len(ids)] for states, (ids, first) in zip(hidden, rows, strict=True)]
    )


@torch.no_grad()
def _trial_reason(model: Any) -> str | None:
    """Compare a packed trial with the model's own forward."""
    packed = trial_bin(int(text_config(model).vocab_size))
    try:
        logprobs_T = completion_logprobs(model, packed)
    except (AstorError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        return f"a trial run of a packed sequence failed: {type(error).__name__}: {first_line}"
    expected_T = torch.cat(_own_logprobs(model, packed))
    difference = float((logprobs_T.cpu() - expected_T).abs().mean())
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    if not difference <= tolerance:
        return (
            f"a trial run's packed log-probs differ by {difference:.3g} on average from separate "
            f"sequences; at most {tolerance:g} is right"
        )
    return None


def trial_bin(vocabulary: int) -> Packed:
    """Two groups with ragged completions, among them one-token ones, of assorted tokens."""
    ids = [(13 + 7919 * i) % vocabulary for i in range(24)]
    groups = [
        TokenGroup(ids[:5], [ids[5:9], ids[9:10], ids[10:12]]),
        TokenGroup(ids[12:15], [ids[15:20], ids[20:24]]),
    ]
    (packed,) = pack_groups(groups, token_budget=64)
    return packed


def _own_logprobs(model: Any, packed: Packed) -> list[torch.Tensor]:
    """Each completion's log-probs from the model's forward on its own sequence."""
    results = []
    for sample in torch.unique_consecutive(packed.sample_T):
        mine_T = packed.sample_T == sample
        target, block = packed.target_T[mine_T], packed.block_S[packed.row_T[mine_T][0]]
        prompt = packed.input_ids_S[(packed.block_S == block) & (packed.branch_S == 0)]
        ids = torch.cat([prompt, target[:-1]]).to(model.device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 :]
        logprobs = logits.float().log_softmax(dim=-1).cpu()
        results.append(logprobs.gather(1, target[:, None])[:, 0])
    return results
