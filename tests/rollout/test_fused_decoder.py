from __future__ import annotations

import copy
import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from astor_rl.llama_family import FAMILY
from astor_rl.rollout import fused_decoder, owned_model
from astor_rl.rollout.fused_decoder import FusedDecoder, unsuited
from astor_rl.rollout.joined_linear import JoinedPart
from astor_rl.rollout.owned_model import OwnedModel
from astor_rl.rollout.transformers import TransformersSampler

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_family_is_fused(family, dtype, tiny_model, caplog):
    """`OwnedModel` has compared its logits with those of the model's own forward."""
    caplog.set_level(logging.INFO)
    own = OwnedModel(tiny_model(family), dtype, CPU)
    assert own.mode == "grouped"
    assert "grouped decoding, fused" in caplog.text
    assert not any(type(module) is nn.Linear for module in own._model.model.modules())


def test_other_models_keep_their_layers(tiny_model, caplog):
    caplog.set_level(logging.INFO)
    model = tiny_model("gemma2")
    assert "gemma2" in str(unsuited(model))
    assert OwnedModel(model, torch.float32, CPU).mode == "grouped"
    assert "layers are not fused (no fused kernels for model type 'gemma2'" in caplog.text


def _hooked(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * 2)


def _hooked_outside(model: Any) -> None:
    model.model.register_forward_pre_hook(lambda module, args: None)


def _wrapped(model: Any) -> None:
    mlp = model.model.layers[1].mlp
    mlp.up_proj = nn.Sequential(mlp.up_proj)


def _patched(model: Any) -> None:
    attention = model.model.layers[1].self_attn
    own = attention.forward
    attention.forward = lambda *args, **kwargs: own(*args, **kwargs)


def _subclassed(model: Any) -> None:
    class Louder(type(model.model.norm)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x) * 1.0001

    model.model.norm.__class__ = Louder


def _shared(model: Any) -> None:
    model.model.layers[1].mlp.up_proj = model.model.layers[1].mlp.gate_proj


def _shared_layers(model: Any) -> None:
    model.model.layers[1].mlp = model.model.layers[0].mlp


def _odd(model: Any) -> None:
    del model.model.layers[1].mlp.gate_proj


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_hooked, "layer 1 has parts other than transformers' own, or hooks"),
        (_hooked_outside, "the model or its last norm is another than transformers' own"),
        (_wrapped, "layer 1 has linear layers of another type"),
        (_patched, "layer 1 has parts other than transformers' own, or hooks"),
        (_subclassed, "the model or its last norm is another than transformers' own"),
        (_shared, "layer 1 shares linear layers"),
        (_shared_layers, "layer 1 shares linear layers"),
        (_odd, "it isn't built like its model type: "),
    ],
)
def test_layers_that_do_more_are_not_fused(change, reason, tiny_model):
    model = tiny_model("llama")
    change(model)
    assert str(unsuited(model)).startswith(reason)


def test_weights_are_held_once(tiny_model, monkeypatch):
    watched: list[weakref.ref[nn.Linear]] = []

    class Watched(FusedDecoder):
        def __init__(self, model, *, packed):
            super().__init__(model, packed=packed)
            watched.extend(weakref.ref(linear) for linear in self.originals.values())

    monkeypatch.setattr(owned_model, "FusedDecoder", Watched)
    own = OwnedModel(tiny_model("llama"), torch.float32, CPU)
    gc.collect()
    assert own.mode == "grouped"
    assert len(watched) == 3 * 7
    assert all(reference() is None for reference in watched)


def test_what_cannot_be_joined_leaves_the_model_as_it_was(tiny_model, caplog, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no kernel")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(fused_decoder, "JoinedLinear", refuse)
    own = OwnedModel(tiny_model("llama"), torch.float32, CPU)
    assert "layers are not fused (no kernel)" in caplog.text
    assert own.mode == "grouped"


def test_a_copy_of_a_sampler_takes_updates_of_its_own(tiny_model, spell, ask):
    sampler = TransformersSampler(
        tiny_model("qwen2"), decode=spell, stop_token_ids=[], dtype=torch.float32
    )
    other, new = copy.deepcopy(sampler), tiny_model("qwen2", seed=1)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(torch.rand_like(parameter) / 5)
    other.update_weights(new.named_parameters(), revision=1)
    fresh = TransformersSampler(new, decode=spell, stop_token_ids=[], dtype=torch.float32)
    found, wanted = (sorted(one.sample([ask(0, 6)]), key=str) for one in (other, fresh))
    assert [r.logprobs for _, r in found] == [r.logprobs for _, r in wanted]


def test_what_computes_something_else_is_noticed_and_undone(tiny_model, caplog, monkeypatch):
    class Wrong(FusedDecoder):
        def __call__(self, *args):
            return super().__call__(*args).flip(-1)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(owned_model, "FusedDecoder", Wrong)
    own = OwnedModel(tiny_model("llama"), torch.float32, CPU)
    assert "layers are not fused (its logits differ from the model's own by" in caplog.text
    assert own.mode == "grouped"
    assert not any(isinstance(module, JoinedPart) for module in own._model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_fused_rollouts_are_the_unfused_ones(dtype, family, tiny_model, spell, ask, monkeypatch):
    """Same tokens in float32; log-probs as near as the type allows, after an update, too."""
    requests = [ask(n, 5 + 3 * n, num_generations=2) for n in range(3)]

    def rollouts() -> list[tuple[int, ...]]:
        sampler = TransformersSampler(
            tiny_model(family), decode=spell, stop_token_ids=[], dtype=dtype
        )
        sampler.update_weights(tiny_model(family, seed=1).named_parameters(), revision=1)
        return sorted(
            (number, rollout.completion_ids, rollout.logprobs)
            for number, rollout in sampler.sample(requests)
        )

    fused = rollouts()
    monkeypatch.setattr(owned_model, "unsuited", lambda model: "for comparison")
    plain = rollouts()
    same = [(a, b) for a, b in zip(fused, plain, strict=True) if a[1] == b[1]]
    if dtype == torch.float32:
        assert len(same) == len(fused)
    for one, other in same:
        assert one[2] == pytest.approx(other[2], abs=1e-4 if dtype == torch.float32 else 0.2)
    assert same


def test_a_broken_update_does_not_mix_with_the_next(tiny_model, spell, ask):
    """An update that stops inside q, k and v leaves q behind, which the next must not use."""
    sampler = TransformersSampler(tiny_model("llama"), decode=spell, stop_token_ids=[])
    wrong = dict(tiny_model("llama", seed=2).named_parameters())
    name = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(Exception, match="weights are missing"):
        sampler.update_weights([(name, wrong[name])], revision=1)
    new = tiny_model("llama", seed=3)
    backwards = list(reversed(list(new.named_parameters())))
    sampler.update_weights(backwards, revision=2)
    fresh = TransformersSampler(new, decode=spell, stop_token_ids=[])
    request = ask(0, 6)
    found, wanted = (sorted(one.sample([request]), key=str) for one in (sampler, fresh))
    assert [r.completion_ids for _, r in found] == [r.completion_ids for _, r in wanted]
