"""One rank of verl's FSDP engine and the probe: `python verl_probe_rank.py MODEL FOLDER`.

What the rows are is in FOLDER/case.pt; rank 0 writes FOLDER/answer.pt. No Ray, no rollouts.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist


def nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def engine_on(model: str) -> Any:
    """verl's engine around a model folder, with the shims of `verl_cpu_engine`."""
    import verl_cpu_engine  # noqa: F401
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine import EngineRegistry

    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=model,
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            dtype="float32",
            mixed_precision=precision,
            use_torch_compile=False,
            use_remove_padding=False,
            use_dynamic_bsz=True,
            max_token_len_per_gpu=64,
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3, total_training_steps=1),
        checkpoint_config=CheckpointConfig(),
    )
    engine.initialize()
    return engine


def actor() -> Any:
    from verl.workers.config import FSDPActorConfig

    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_mini_batch_size=1,
        ppo_micro_batch_size_per_gpu=1,
        use_kl_loss=True,
        kl_loss_coef=0.0,
        clip_ratio_c=1e6,
    )


def main(model: str, folder: str) -> None:
    from verl.utils import tensordict_utils as tu

    engine = engine_on(model)
    rank = dist.get_rank()
    from astor_rl.engines.verl.loss import KL_COEF, astor_loss
    from astor_rl.engines.verl.probe import PROBE_ROW, REQUEST, ProbeRequest, measure

    case = torch.load(Path(folder) / "case.pt")
    mine = case["ranks"][rank]
    columns = {name: nested([rows[i] for i in mine]) for name, rows in case["columns"].items()}
    columns["position_ids"] = nested(
        [torch.arange(len(case["columns"]["input_ids"][i])) for i in mine]
    )
    columns["loss_mask"] = columns["response_mask"]
    columns[PROBE_ROW] = case["row_of"][mine]
    columns[KL_COEF] = torch.zeros(len(mine))
    request = ProbeRequest(
        samples=tuple(case["samples"]),
        horizon=case["horizon"],
        total=False,
        sketch_dim=64,
        memory_limit_mb=64,
        seed=0,
    )
    data = tu.get_tensordict(
        columns, non_tensor_dict={REQUEST: asdict(request), "temperature": 1.0}
    )
    worker = SimpleNamespace(
        engine=engine,
        engine_config=engine.engine_config,
        model_config=engine.model_config,
        loss_fn=partial(astor_loss, config=actor()),
    )
    before = [p.full_tensor().clone() for p in engine.module.parameters()]
    answer = measure(worker, data)
    for old, new in zip(before, engine.module.parameters(), strict=True):
        assert torch.equal(old, new.full_tensor()), "a probe changed the weights"
        assert new.grad is None or not new.grad.to_local().any(), "a probe left gradients behind"
    if rank == 0:
        torch.save({"gram": answer.gram}, Path(folder) / "answer.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["DIST_INIT_METHOD"] = f"file://{os.environ['STORE']}"
    main(*sys.argv[1:])
