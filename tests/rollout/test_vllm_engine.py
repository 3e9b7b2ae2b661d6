from __future__ import annotations

import pytest
import torch

from astor_rl.errors import DependencyError
from astor_rl.rollout import vllm_engine
from astor_rl.rollout.vllm import VllmSampler


@pytest.mark.skipif(vllm_engine.installed(), reason="vLLM is installed here")
def test_without_vllm_the_error_says_how_to_get_it(tiny_model, spell):
    with pytest.raises(DependencyError, match="make setup-vllm"):
        VllmSampler(tiny_model("llama"), decode=spell, stop_token_ids=[])


class Engine:
    """What `_wake` asks of an engine."""

    def __init__(self, calls):
        self.calls = calls

    def wake_up(self, tags):
        self.calls.append(tags)


@pytest.mark.parametrize(("kind", "released"), [("cuda", ["gc", "empty_cache"]), ("cpu", [])])
def test_before_it_wakes_torch_gives_back_what_it_keeps(monkeypatch, kind, released):
    """vLLM allocates beside torch: an update's cached memory would leave it none."""
    calls = []
    monkeypatch.setattr("gc.collect", lambda: calls.append("gc"))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append("empty_cache"))
    sampler = VllmSampler.__new__(VllmSampler)
    sampler._device, sampler._engine = torch.device(kind), Engine(calls)
    sampler._asleep = {"weights", "kv_cache"}
    sampler._wake("weights")
    sampler._wake("weights")  # awake: nothing to release for
    sampler._wake("weights", "kv_cache")
    assert calls == [*released, ["weights"], *released, ["kv_cache"]]
