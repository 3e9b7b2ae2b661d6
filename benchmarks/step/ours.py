"""Our side: the local engine's own step. `python -m benchmarks.step.ours SETTING BACKEND DTYPE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.local.distributed import world
from astor_rl.engines.local.model import load_model, merged_named_tensors, render_prompt
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.engines.local.sampling import make_sampler
from astor_rl.engines.local.trainer import LocalTrainer
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.sandbox.opening import open_pool
from benchmarks.common import tell
from benchmarks.step.side import PROBE_EVERY, Answers, Counts, Meter, Setting, told_to_go


def config_of(setting: Setting, *, backend: str, dtype: str) -> RunConfig:
    """The run of a setting; what it doesn't say is the product's default."""
    return parse_config(
        {
            "model": setting.folder,
            "max_steps": 1_000_000,
            "prompts_per_step": setting.prompts,
            "num_generations": setting.generations,
            "max_prompt_length": setting.prompt_tokens,
            "max_completion_length": setting.tokens,
            "dtype": dtype,
            "learning_rate": setting.learning_rate,
            "beta": setting.beta,
            "rollout": {"backend": backend},
            "lora": {"enabled": setting.lora},
            "data": {"validation_share": 0.0, "test_share": 0.0},
            "eval": {"examples": 0},
            # More often than by default, so that a few rounds have one.
            "synergy": {"every": PROBE_EVERY},
            "tasks": [
                {
                    "name": path.stem,
                    "task": "benchmarks.step.task:TASK",
                    "source": f"jsonl:{path}",
                }
                for path in setting.row_files()
            ],
        }
    )


@contextmanager
def trainer_of(config: RunConfig, counts: Counts) -> Iterator[LocalTrainer]:
    """The trainer, put together as `astor train` does, with the policy's passes as phases."""
    with world() as here, open_pool(config.sandbox) as sandbox:
        loaded = load_model(config.model, dtype=torch.float32)
        tasks = prepare_tasks(
            config,
            sandbox=sandbox,
            render=lambda messages: render_prompt(loaded.tokenizer, messages),
            base_dir=Path.cwd(),
        )
        sampler = make_sampler(config, loaded, tasks, device=here.device, note=tell)
        sampler.update_weights(merged_named_tensors(loaded.model), revision=0)
        torch.manual_seed(config.seed)
        policy = Policy(
            loaded,
            lora=config.lora,
            device=here.device,
            dtype=torch.bfloat16 if config.dtype == "bfloat16" else torch.float32,
            temperature=config.temperature,
            checkpointing=config.gradient_checkpointing,
            fused_kernels=config.fused_kernels,
        )
        for method, phase in (
            ("reference_logprobs", "reference"),
            ("logprobs", "update"),
            ("logprobs_and_entropies", "update"),
        ):
            counts.wrap(policy, method, phase)
        with RewardWorker({one.name: one.task for one in tasks}) as rewards:
            yield LocalTrainer(config, tasks, policy, sampler=sampler, rewards=rewards, world=here)


def main() -> None:
    """Take a step for each line of standard input."""
    answers = Answers()
    setting, backend, dtype = Setting.load(sys.argv[1]), sys.argv[2], sys.argv[3]
    counts = Counts()
    with trainer_of(config_of(setting, backend=backend, dtype=dtype), counts) as trainer:
        answers.ready()
        while told_to_go():
            counts.reset()
            meter = Meter()
            record = trainer.step()
            measured = meter.read()
            phases = dict(record.seconds)
            phases["reference"] = counts.seconds["reference"]
            phases["update"] -= phases["reference"]
            tokens = dict(counts.tokens)
            # Only the sampler runs outside the policy's passes; vLLM's layers can't be seen.
            sampled = tokens.pop("rest", 0)
            if backend != "vllm":
                tokens["rollout"] = sampled
            answers.say(
                **measured,
                phases=phases,
                tokens=tokens,
                generated=record.metrics["tokens/generated"],
                probe_s=record.metrics.get("time/probe"),
            )


if __name__ == "__main__":
    main()
