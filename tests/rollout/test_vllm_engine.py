from __future__ import annotations

import pytest

from astor_rl.errors import DependencyError
from astor_rl.rollout import vllm_engine
from astor_rl.rollout.vllm import VllmSampler


@pytest.mark.skipif(vllm_engine.installed(), reason="vLLM is installed here")
def test_without_vllm_the_error_says_how_to_get_it(tiny_model, spell):
    with pytest.raises(DependencyError, match="make setup-vllm"):
        VllmSampler(tiny_model("llama"), decode=spell, stop_token_ids=[])
