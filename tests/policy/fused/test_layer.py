from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from astor_rl.policy.forward import completion_logprobs, prepare_packing
from astor_rl.policy.fused.check import fuse_kernels
from astor_rl.policy.fused.layer import FusedLayer, fuse, unfuse
from astor_rl.policy.packing import TokenGroup, pack_groups

Maker = Callable[..., Any]
KINDS = ["llama", "llama-tied", "qwen2", "qwen2-sliding", "qwen3", "mistral"]


def logprobs_and_gradients(
    model: Any, groups: list[TokenGroup], budget: int = 1000
) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    bins = pack_groups(groups, budget)
    values = torch.cat([completion_logprobs(model, packed) for packed in bins])
    ramp = torch.linspace(-1, 1, len(values))
    (values * ramp + 0.1 * values.square()).sum().backward()
    named = model.named_parameters()
    return values.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


def assert_same(
    mine: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]
) -> None:
    torch.testing.assert_close(mine[0], expected[0], atol=1e-4, rtol=0)
    assert mine[1].keys() == expected[1].keys()
    for name, grad in expected[1].items():
        scale = max(float(grad.norm()), 1e-6)
        assert float((mine[1][name] - grad).norm()) <= 1e-4 * scale, name


def adapted(base: Any, targets: list[str] | str = "all-linear") -> Any:
    torch.manual_seed(5)
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(base, config)


def runs_fused(model: Any, run: Callable[[], Any]) -> Any:
    """Run, with the layers' own attention and MLP out of order."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a layer ran through its own modules")

    parts = [m for layer in model.get_decoder().layers for m in (layer.self_attn, layer.mlp)]
    for part in parts:
        part.forward = refuse
    result = run()
    for part in parts:
        del part.forward
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights(tiny_model: Maker, ragged_groups: list[TokenGroup], kind: str) -> None:
    model = tiny_model(kind)
    assert prepare_packing(model) is None
    expected = logprobs_and_gradients(model, ragged_groups)
    assert fuse_kernels(model) is None
    for budget in (1000, 30, 13):
        mine = runs_fused(model, lambda b=budget: logprobs_and_gradients(model, ragged_groups, b))
        if budget == 1000:
            assert_same(mine, expected)
        else:
            unfuse(model)
            assert_same(mine, logprobs_and_gradients(model, ragged_groups, budget))
            assert fuse(model) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj", "down_proj"], ["up_proj"]])
def test_adapters_and_their_reference(
    tiny_model: Maker, ragged_groups: list[TokenGroup], kind: str, targets: Any
) -> None:
    model = adapted(tiny_model(kind), targets)
    names = set(model.state_dict())
    assert prepare_packing(model) is None
    expected = logprobs_and_gradients(model, ragged_groups)
    with torch.no_grad(), model.disable_adapter():
        packed = pack_groups(ragged_groups, 1000)[0]
        reference = completion_logprobs(model, packed)
    assert fuse_kernels(model) is None
    assert_same(runs_fused(model, lambda: logprobs_and_gradients(model, ragged_groups)), expected)
    with torch.no_grad(), model.disable_adapter():
        mine = completion_logprobs(model, packed)
        # Matrix products round differently from one kind of CPU to the next.
        torch.testing.assert_close(mine, reference, atol=1e-4, rtol=0)
    assert set(model.state_dict()) == names


def test_gradient_checkpointing(tiny_model: Maker, ragged_groups: list[TokenGroup]) -> None:
    model = adapted(tiny_model("qwen2")).train()
    assert prepare_packing(model) is None
    expected = logprobs_and_gradients(model, ragged_groups)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    assert fuse_kernels(model) is None
    assert_same(logprobs_and_gradients(model, ragged_groups), expected)


def test_two_backward_passes_over_one_graph(
    tiny_model: Maker, ragged_groups: list[TokenGroup]
) -> None:
    """The gradient probe takes two: nothing saved may be used up."""
    model = adapted(tiny_model("qwen3"))
    assert prepare_packing(model) is None
    assert fuse_kernels(model) is None
    logprobs = completion_logprobs(model, pack_groups(ragged_groups, 1000)[0])
    parameters = [p for p in model.parameters() if p.requires_grad]
    first = torch.autograd.grad(logprobs.sum(), parameters, retain_graph=True)
    second = torch.autograd.grad(logprobs.sum(), parameters)
    for mine, again in zip(first, second, strict=True):
        assert torch.equal(mine, again)


@pytest.mark.parametrize("adapter", [False, True])
def test_bfloat16_is_as_near_to_float32_as_the_models_own(
    tiny_model: Maker, ragged_groups: list[TokenGroup], adapter: bool
) -> None:
    model = tiny_model("llama", initializer_range=0.05)
    if adapter:
        model = adapted(model)
    assert prepare_packing(model) is None
    exact, exact_grads = logprobs_and_gradients(model, ragged_groups)
    errors = []
    for fused in (False, True):
        if fused:
            assert fuse(model) is None
        with torch.autocast("cpu", torch.bfloat16):
            values, grads = logprobs_and_gradients(model, ragged_groups)
        errors.append(float((values - exact).abs().mean()))
        for name, grad in exact_grads.items():
            assert grads[name].dtype == torch.float32
            if float(grad.norm()) > 1e-6:
                cosine = torch.cosine_similarity(grads[name].flatten(), grad.flatten(), dim=0)
                assert float(cosine) > 0.99, name
    assert errors[1] <= 1.5 * errors[0]


def test_generation_and_separate_sequences_are_the_models_own(tiny_model: Maker) -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]])
    arguments = {"attention_mask": (ids > 0).long(), "max_new_tokens": 6, "do_sample": False}
    before = tiny_model("qwen2").generate(ids, **arguments)
    model = tiny_model("qwen2")
    assert prepare_packing(model) is None
    assert fuse_kernels(model) is None
    assert torch.equal(model.generate(ids, **arguments), before)


def test_a_copy_is_fused_and_independent(
    tiny_model: Maker, ragged_groups: list[TokenGroup]
) -> None:
    model = tiny_model("llama")
    assert prepare_packing(model) is None
    assert fuse_kernels(model) is None
    packed = pack_groups(ragged_groups, 1000)[0]
    before = completion_logprobs(model, packed).detach()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    again = runs_fused(twin, lambda: completion_logprobs(twin, packed))
    assert torch.equal(again.detach(), before)


def test_class_names_stay_and_come_back(tiny_model: Maker) -> None:
    model = tiny_model("llama")
    own = type(model.get_decoder().layers[0])
    assert prepare_packing(model) is None
    assert fuse(model) is None
    layer = model.get_decoder().layers[0]
    assert isinstance(layer, FusedLayer)
    assert isinstance(layer, own)
    assert type(layer).__name__ == own.__name__
    assert "fused already" in str(fuse(model))
    unfuse(model)
    assert type(layer) is own


@pytest.mark.parametrize(
    "part", ["mlp.up_proj", "mlp", "input_layernorm", "self_attn.q_norm", "self_attn.o_proj"]
)
def test_a_hook_on_a_part_is_honoured(
    tiny_model: Maker, ragged_groups: list[TokenGroup], part: str
) -> None:
    model = tiny_model("qwen3")
    assert prepare_packing(model) is None
    assert fuse(model) is None
    packed = pack_groups(ragged_groups, 1000)[0]
    before = completion_logprobs(model, packed)
    module = model.get_decoder().layers[1].get_submodule(part)
    handle = module.register_forward_hook(lambda m, args, out: out * out)
    assert not torch.allclose(completion_logprobs(model, packed), before)
    handle.remove()
    assert torch.equal(completion_logprobs(model, packed), before)


@pytest.mark.parametrize(
    "changes", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}]
)
def test_other_adapters_keep_their_own_layers(tiny_model: Maker, changes: dict[str, Any]) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, **changes)
    model = get_peft_model(tiny_model("qwen2"), config).train()
    model.set_attn_implementation("astor_tree")
    assert "layer 0 has adapters or hooks" in str(fuse(model))
    assert not any(isinstance(m, FusedLayer) for m in model.modules())


def test_other_models_keep_their_own_layers(tiny_model: Maker) -> None:
    gemma = tiny_model("gemma2")
    assert prepare_packing(gemma) is None
    assert "model type 'gemma2'" in str(fuse_kernels(gemma))
    llama = tiny_model("llama", attention="eager")
    assert "need tree attention, not 'eager'" in str(fuse(llama))
    gelu = tiny_model("llama", hidden_act="gelu")
    assert prepare_packing(gelu) is None
    assert "hidden_act 'gelu'" in str(fuse(gelu))
