"""verl without a GPU, for tests: its FSDP engine on a CPU and a sampler made of transformers.

Loaded in every worker by `actor_rollout_ref.model.external_lib`. Each shim names its cause and can
go when verl has what it stands for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

import ray
import torch
import verl.workers.engine.fsdp.transformer_impl as fsdp
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

NAME = "hf_cpu"
"""`actor_rollout_ref.rollout.name`. Cause: vLLM and SGLang, verl's samplers, want a GPU."""

# Cause: verl registers its FSDP engine for cuda and npu only; the code itself runs on a CPU.
EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")(
    FSDPEngineWithLMHead
)

# Cause: verl gives the reference model a CPUOffloadPolicy, which torch refuses for CPU tensors.
fsdp.CPUOffloadPolicy = lambda pin_memory=True: None

# Cause: verl's workers ask for "cpu:gloo,cpu:gloo" on a CPU ("Duplicate device type cpu"); they
# leave a process group alone that is there already.
if "RANK" in os.environ and not torch.distributed.is_initialized():
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        init_method=os.environ.get("DIST_INIT_METHOD"),
    )

# Cause: verl looks samplers up in this table and has no function to add to it.
_ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.Adapter"


class Server:
    """Samples token by token; the same weights, prompt and seed give the same."""

    def __init__(self, path: str, limit: int) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self._limit = limit
        self._steps = 0

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        generator = torch.Generator().manual_seed(sampling_params.get("seed", 0))
        limit = min(sampling_params.get("max_new_tokens") or self._limit, self._limit)
        temperature = sampling_params["temperature"]
        tokens: list[int] = []
        logprobs: list[float] = []
        cache, current = None, torch.tensor([prompt_ids])
        with torch.no_grad():
            while len(tokens) < limit:
                out = self._model(input_ids=current, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                scores = torch.log_softmax(out.logits[0, -1].float() / (temperature or 1.0), -1)
                token = (
                    int(torch.multinomial(scores.exp(), 1, generator=generator))
                    if temperature
                    else int(scores.argmax())
                )
                tokens.append(token)
                logprobs.append(float(scores[token]))
                current = torch.tensor([[token]])
                if token == self._model.config.eos_token_id:
                    break
                await asyncio.sleep(0)
        return TokenOutput(
            token_ids=tokens,
            log_probs=logprobs if sampling_params.get("logprobs") else None,
            stop_reason="completed",
            extra_fields={
                "global_steps": self._steps,
                "min_global_steps": self._steps,
                "max_global_steps": self._steps,
            },
        )

    async def load_weights(self, weights: dict[str, torch.Tensor], steps: int) -> None:
        missing, unexpected = self._model.load_state_dict(weights, strict=False)
        assert not missing, missing
        assert not unexpected, unexpected
        self._steps = steps

    async def nothing(self, *_: Any, **__: Any) -> None:
        pass

    wake_up = sleep = clear_kv_cache = abort_all_requests = resume_generation = nothing
    release_kv_cache = resume_kv_cache = start_profile = stop_profile = nothing


class Replica(RolloutReplica):
    async def launch_servers(self) -> None:
        server = (
            ray.remote(Server)
            .options(name=f"{NAME}_{self.replica_rank}", max_concurrency=64, num_cpus=0.1)
            .remote(self.model_config.path, self.config.response_length)
        )
        self.servers = [server]
        self._server_handle = server
        self._server_address = f"{NAME}:{self.replica_rank}"


RolloutReplicaRegistry.register(NAME, lambda: Replica)


class Adapter(BaseRollout):
    """Hands the trainer's weights to the server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, *_: Any, **__: Any):
        super().__init__(config, model_config, device_mesh)
        size = self.config.tensor_model_parallel_size * self.config.data_parallel_size
        self._replica = int(os.environ["RANK"]) // size
        self._server: Any = None

    async def resume(self, tags: Any) -> None:
        pass

    async def release(self) -> None:
        pass

    async def update_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int = 0, **_: Any
    ) -> None:
        plain = {name: tensor.detach().float().cpu().clone() for name, tensor in weights}
        if self._server is None:
            self._server = ray.get_actor(f"{NAME}_{self._replica}")
        await self._server.load_weights.remote(plain, global_steps or 0)
