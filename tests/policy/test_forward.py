from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from astor_rl.errors import CapabilityError, ConfigError
from astor_rl.policy import head as policy_head
from astor_rl.policy.forward import (
    check_packable,
    completion_logprobs,
    completion_logprobs_and_entropies,
    prepare_packing,
)
from astor_rl.policy.packing import TokenGroup, flat_samples, pack_groups
from astor_rl.policy.support import packing_note
from astor_rl.policy.tree_attention import TREE_ATTENTION

Maker = Callable[..., Any]
VOCABULARY = 61
unpacked_logprobs = partial(completion_logprobs, unpacked=True)
KINDS = ["llama", "llama-tied", "qwen2", "qwen2-sliding", "mistral", "gemma2", "granite", "cohere"]


def own_logprobs(model: Any, groups: list[TokenGroup], temperature: float = 1.0) -> Tensor:
    """The definition: each completion alone through the model's own forward, flat layout."""
    parts = []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt_ids, *completion]])
            logits = model(input_ids=ids).logits[0, len(group.prompt_ids) - 1 : -1]
            logprobs = (logits.float() / temperature).log_softmax(dim=-1)
            target = torch.tensor(list(completion), dtype=torch.long)
            parts.append(logprobs.gather(1, target[:, None])[:, 0])
    return torch.cat(parts)


def step_logprobs(
    run: Any, model: Any, groups: list[TokenGroup], budget: int, **options: Any
) -> Tensor:
    """All bins' log-probs, put back into the flat layout."""
    bins = pack_groups(groups, budget)
    places = torch.cat([packed.token_T for packed in bins])
    values = torch.cat([run(model, packed, **options) for packed in bins])
    return torch.zeros_like(values).index_copy(0, places, values)


def gradients(model: Any, logprobs_T: Tensor) -> dict[str, Tensor]:
    """Gradients of an arbitrary smooth function of the log-probs."""
    model.zero_grad()
    ramp = torch.linspace(-1, 1, len(logprobs_T))
    (logprobs_T * ramp + 0.1 * logprobs_T.square()).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(mine: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert mine.keys() == expected.keys()
    for name, grad in expected.items():
        scale = max(float(grad.norm()), 1e-6)
        assert float((mine[name] - grad).norm()) <= 1e-4 * scale, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "run", [completion_logprobs, unpacked_logprobs], ids=["packed", "unpacked"]
)
def test_equal_to_separate_sequences(
    tiny_model: Maker, ragged_groups: list[TokenGroup], kind: str, run: Any
) -> None:
    model = tiny_model(kind)
    expected = own_logprobs(model, ragged_groups)
    expected_gradients = gradients(model, expected)
    # Budgets: everything in one bin; a bin for a group or two; groups split between bins.
    for budget in (1000, 30, 13):
        logprobs = step_logprobs(run, model, ragged_groups, budget)
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
        assert_same_gradients(gradients(model, logprobs), expected_gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_tree_attention(tiny_model: Maker, ragged_groups: list[TokenGroup], kind: str) -> None:
    model = tiny_model(kind)
    expected = own_logprobs(model, ragged_groups)
    expected_gradients = gradients(model, expected)
    assert prepare_packing(model) is None
    assert model.config._attn_implementation == TREE_ATTENTION
    for budget in (1000, 30, 13):
        logprobs = step_logprobs(completion_logprobs, model, ragged_groups, budget)
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
        assert_same_gradients(gradients(model, logprobs), expected_gradients)
    # Without a tree it is sdpa: separate padded sequences and generation still work.
    separate = step_logprobs(unpacked_logprobs, model, ragged_groups, 1000)
    torch.testing.assert_close(separate, expected, atol=1e-4, rtol=0)


def test_tree_attention_generates_as_before(tiny_model: Maker) -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]])
    arguments = {"attention_mask": (ids > 0).long(), "max_new_tokens": 6, "do_sample": False}
    before = tiny_model("qwen2").generate(ids, **arguments)
    model = tiny_model("qwen2")
    assert prepare_packing(model) is None
    assert torch.equal(model.generate(ids, **arguments), before)


def test_prepare_keeps_an_attention_that_tree_attention_cannot_replace(
    tiny_model: Maker, ragged_groups: list[TokenGroup]
) -> None:
    model = tiny_model("gemma2", attention="eager", attn_logit_softcapping=0.5)
    expected = own_logprobs(model, ragged_groups)
    assert prepare_packing(model) is None
    assert model.config._attn_implementation == "eager"
    logprobs = step_logprobs(completion_logprobs, model, ragged_groups, 1000)
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
    assert "dropout" in str(prepare_packing(attention_dropout()))


@pytest.mark.parametrize("kind", ["llama", "qwen2-sliding", "gemma2"])
def test_eager_attention(tiny_model: Maker, ragged_groups: list[TokenGroup], kind: str) -> None:
    model = tiny_model(kind, attention="eager")
    expected = own_logprobs(model, ragged_groups)
    logprobs = step_logprobs(completion_logprobs, model, ragged_groups, 1000)
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("chunk", "kept"), [(1, 0), (4, 0), (4, 8), (4, 1000), (None, 0), (None, 1000)]
)
@pytest.mark.parametrize("plain", [True, False])
def test_chunks_temperature_and_entropy(
    tiny_model: Maker,
    ragged_groups: list[TokenGroup],
    chunk: int | None,
    kept: int,
    plain: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Two rows of logits to a slice, so that slices have edges here too.
    monkeypatch.setattr(policy_head, "_SLICE_ELEMENTS", 2 * VOCABULARY)
    monkeypatch.setattr(policy_head, "KEPT_ELEMENTS", kept * VOCABULARY)
    if not plain:
        monkeypatch.setattr(policy_head, "_plain", lambda head: False)
    model = tiny_model("llama")
    (packed,) = pack_groups(ragged_groups, 1000)
    logprobs, entropy = completion_logprobs_and_entropies(model, packed, 0.7, chunk=chunk)
    expected = own_logprobs(model, ragged_groups, 0.7)[packed.token_T]
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
    assert not entropy.requires_grad
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for sample in range(2):
        completion = ragged_groups[0].completions[sample]
        ids = torch.tensor([[*ragged_groups[0].prompt_ids, *completion[:-1]]])
        hidden = decoder(input_ids=ids).last_hidden_state[0, len(ragged_groups[0].prompt_ids) - 1 :]
        distribution = torch.distributions.Categorical(logits=head(hidden) / 0.7)
        torch.testing.assert_close(
            entropy[packed.sample_T == sample], distribution.entropy(), atol=1e-4, rtol=1e-4
        )
    assert_same_gradients(
        gradients(model, logprobs),
        gradients(model, own_logprobs(model, ragged_groups, 0.7)[packed.token_T]),
    )


def test_slices_follow_the_threads_on_a_cpu_only() -> None:
    def rows(device: str) -> list[int]:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(policy_head._slice_rows(torch.empty(1, 2**16, device=device)))
        return found

    before = torch.get_num_threads()
    try:
        assert rows("cpu") == [8, 16]
        assert rows("meta") == [1024, 1024]  # stands for a GPU
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kept", [0, 5, 1000])
def test_two_backward_passes_over_one_graph(
    tiny_model: Maker,
    ragged_groups: list[TokenGroup],
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy_head, "KEPT_ELEMENTS", kept * VOCABULARY)
    model = tiny_model("llama")
    (packed,) = pack_groups(ragged_groups, 1000)
    logprobs = completion_logprobs(model, packed, chunk=5)
    parameters = list(model.parameters())
    first = torch.autograd.grad(logprobs.sum(), parameters, retain_graph=True)
    second = torch.autograd.grad(logprobs.sum(), parameters)
    for mine, again in zip(first, second, strict=True):
        torch.testing.assert_close(mine, again)


@pytest.mark.parametrize("head", [False, True])
def test_lora_and_its_reference(
    tiny_model: Maker, ragged_groups: list[TokenGroup], head: bool
) -> None:
    base = tiny_model("qwen2")
    reference = own_logprobs(base, ragged_groups).detach()
    targets = ["q_proj", "v_proj", "down_proj", *(["lm_head"] if head else [])]
    model = get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    assert check_packable(model) is None
    expected = own_logprobs(model, ragged_groups)
    assert float((expected - reference).detach().abs().max()) > 1e-2
    logprobs = step_logprobs(completion_logprobs, model, ragged_groups, 30)
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)
    assert_same_gradients(gradients(model, logprobs), gradients(model, expected))
    with torch.no_grad(), model.disable_adapter():
        off = step_logprobs(completion_logprobs, model, ragged_groups, 30)
    torch.testing.assert_close(off, reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tree", [False, True])
def test_gradient_checkpointing(
    tiny_model: Maker, ragged_groups: list[TokenGroup], tree: bool
) -> None:
    model = tiny_model("qwen2-sliding").train()
    assert not tree or prepare_packing(model) is None
    expected = gradients(model, own_logprobs(model, ragged_groups))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    logprobs = step_logprobs(completion_logprobs, model, ragged_groups, 1000)
    assert_same_gradients(gradients(model, logprobs), expected)


@pytest.mark.parametrize("tree", [False, True])
def test_bfloat16_autocast_is_close_and_returns_float32(
    tiny_model: Maker, ragged_groups: list[TokenGroup], tree: bool
) -> None:
    model = tiny_model("llama", initializer_range=0.05)
    assert not tree or prepare_packing(model) is None
    expected = own_logprobs(model, ragged_groups)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs = step_logprobs(completion_logprobs, model, ragged_groups, 1000)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=0.03, rtol=0)
    mine, exact = gradients(model, logprobs), gradients(model, expected)
    for name, grad in exact.items():
        assert mine[name].dtype == torch.float32
        assert torch.cosine_similarity(mine[name].flatten(), grad.flatten(), dim=0) > 0.99, name
    whole = model.to(torch.bfloat16)
    (packed,) = pack_groups(ragged_groups, 1000)
    assert completion_logprobs(whole, packed).dtype == torch.float32


def test_log_softmax_is_float32_whatever_the_logits(tiny_model: Maker) -> None:
    """Summed in bfloat16, 61 equal probabilities would not give log(1/61) to 1e-6."""
    model = tiny_model("llama").to(torch.bfloat16)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    (packed,) = pack_groups([TokenGroup([1, 2], [[3, 4]])], 10)
    logprobs, entropy = completion_logprobs_and_entropies(model, packed)
    uniform = torch.tensor(61.0).log()
    torch.testing.assert_close(logprobs, (-uniform).expand(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(entropy, uniform.expand(2), atol=1e-5, rtol=0)


def test_logits_are_made_in_chunks_of_completion_tokens_only(
    tiny_model: Maker, ragged_groups: list[TokenGroup]
) -> None:
    model = tiny_model("llama")
    (packed,) = pack_groups(ragged_groups, 1000)
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: rows.append(len(output))
    )
    logprobs = completion_logprobs(model, packed, chunk=8)
    tokens = len(flat_samples(ragged_groups))
    assert sum(rows) == tokens
    assert max(rows) == 8
    logprobs.sum().backward()
    # Computed again, but for the last chunk.
    assert tokens % 8
    assert sum(rows) == 2 * tokens - tokens % 8


def test_only_empty_completions(tiny_model: Maker) -> None:
    (packed,) = pack_groups([TokenGroup([1, 2], [[], []])], 10)
    for run in (completion_logprobs, unpacked_logprobs):
        logprobs = run(tiny_model("llama"), packed)
        assert logprobs.shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_packable_models(tiny_model: Maker, kind: str) -> None:
    assert check_packable(tiny_model(kind)) is None
    assert packing_note(tiny_model(kind)) is None


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def dynamic_rope() -> Any:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=rope))


def mamba() -> Any:
    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1)
    )


def linear_hybrid() -> Any:
    return Qwen3NextForCausalLM(
        Qwen3NextConfig(
            **{**SMALL, "num_hidden_layers": 4},
            num_key_value_heads=2,
            head_dim=8,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=8,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
    )


def attention_dropout() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL, attention_dropout=0.1))


def lora_dropout() -> Any:
    config = LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.05)
    return get_peft_model(LlamaForCausalLM(LlamaConfig(**SMALL)), config)


def prompt_tuning() -> Any:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    return get_peft_model(LlamaForCausalLM(LlamaConfig(**SMALL)), config)


def unknown_scale() -> Any:
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    model.config.logit_scale = 3.0
    return model


def hidden_scale() -> Any:
    """A model that scales its logits without telling its configuration."""

    class Scaled(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = 3 * output.logits
            return output

    return Scaled(LlamaConfig(**SMALL, initializer_range=0.3))


def flash() -> Any:
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    model.config._attn_implementation = "flash_attention_2"
    return model


def learned_positions() -> Any:
    """OPT counts positions from the padding mask where it is not given them."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=32,
            init_std=0.3,
            dropout=0.0,
        )
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dynamic_rope, "dynamic RoPE"),
        (mamba, "linear_attention layers"),
        (linear_hybrid, "linear_attention layers"),
        (attention_dropout, r"dropout 0.1 at model.layers.0.self_attn"),
        (lora_dropout, r"dropout 0.05 at .*lora_dropout"),
        (prompt_tuning, "prompt-learning"),
        (unknown_scale, "logit_scale = 3.0"),
        (hidden_scale, "differ by"),
        (flash, "'flash_attention_2' takes no tree mask"),
    ],
)
def test_unpackable_models(make: Callable[[], Any], message: str) -> None:
    reason = check_packable(make())
    assert reason is not None
    assert "\n" not in reason
    assert re.search(message, reason), reason


def test_models_are_packed_right_or_refused(ragged_groups: list[TokenGroup]) -> None:
    model = learned_positions()
    if check_packable(model) is None:
        logprobs = step_logprobs(completion_logprobs, model, ragged_groups, 1000)
        expected = own_logprobs(model, ragged_groups)
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


def test_unpacked_serves_what_cannot_be_packed(ragged_groups: list[TokenGroup]) -> None:
    for make in (mamba, linear_hybrid, learned_positions):
        model = make().eval()
        expected = own_logprobs(model, ragged_groups)
        logprobs = step_logprobs(unpacked_logprobs, model, ragged_groups, 30)
        torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


def test_notes_and_errors(tiny_model: Maker) -> None:
    assert "mixture of experts" in str(packing_note(linear_hybrid()))
    (packed,) = pack_groups([TokenGroup([1], [[2]])], 10)
    with pytest.raises(ConfigError, match="temperature is 0"):
        completion_logprobs(tiny_model("llama"), packed, 0.0)
    with pytest.raises(CapabilityError, match=r"logit_scale = 3\.0"):
        completion_logprobs(unknown_scale(), packed)
