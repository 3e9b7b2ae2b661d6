"""The supervised warm-up of a run, before RL: from reference answers to a policy worth sampling."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from astor_rl.config import RunConfig
from astor_rl.engines.local.checkpoint import latest_checkpoint, load_checkpoint
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.interrupts import graceful_stop
from astor_rl.engines.local.model import (
    LoadedModel,
    cast_parameters,
    merge_lora,
    merged_named_tensors,
    save_model,
    turn_end_id,
)
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.supervised import Batches, Demonstration, SupervisedTrainer
from astor_rl.engines.preparation import PreparedTask
from astor_rl.report.console import Console
from astor_rl.rollout.base import Sampler

BASE = "base"
"""Folder in the run: the policy at RL step 0, which is the reference."""
WARMUP = "warmup"
"""Folder in the run: checkpoints of the warm-up while it goes on."""


class WarmUp:
    """Trains on reference answers unless the run folder has what came of it.

    Args:
        config: the run; its `[warmup]` section says how much.
        tasks: with their training examples.
        sampler: gets the weights.
        world: every rank trains on its part.
        console: on rank 0.
        load: loads a model on every rank, by the name of a folder.
        save: keeps a checkpoint: its folder, the step, the state.
    """

    def __init__(
        self,
        config: RunConfig,
        tasks: Sequence[PreparedTask],
        sampler: Sampler,
        *,
        world: World,
        console: Console | None,
        load: Callable[[str], LoadedModel],
        save: Callable[[Path, int, dict[str, Any]], None],
    ) -> None:
        self._config = config
        self._path = Path(config.output_dir)
        self._dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        self._tasks = tasks
        self._sampler = sampler
        self._world = world
        self._console = console
        self._load = load
        self._save = save

    def run(self, loaded: LoadedModel) -> LoadedModel:
        """The policy at RL step 0: after what is left of the warm-up, merged.

        The sampler has its weights afterwards.

        Args:
            loaded: the run's model; taken over if there is something to do.

        Raises:
            KeyboardInterrupt: stopped on request, after a checkpoint.
        """
        config = self._config
        if not config.warmup.steps:
            self._sampler.update_weights(merged_named_tensors(loaded.model), revision=0)
            return loaded
        base = self._path / BASE
        if not base.is_dir():
            self._supervise(loaded)
        if self._world.is_main:
            shutil.rmtree(self._path / WARMUP, ignore_errors=True)
        # From the folder even when the weights are at hand: a resumed run must start RL from the
        # same rounding.
        self._world.barrier()
        base_model = self._load(str(base))
        self._sampler.update_weights(merged_named_tensors(base_model.model), revision=0)
        return base_model

    def _supervise(self, loaded: LoadedModel) -> None:
        config = self._config
        torch.manual_seed(config.seed)
        policy = Policy(
            loaded,
            lora=config.lora if config.warmup.lora else None,
            device=self._world.device,
            dtype=self._dtype,
            with_reference=False,
            checkpointing=config.gradient_checkpointing,
            fused_kernels=config.fused_kernels,
        )
        trainer = SupervisedTrainer(
            policy,
            Batches(
                {task.name: self._demonstrations(task, loaded.tokenizer) for task in self._tasks},
                batch_size=config.warmup.batch_size,
                shuffle=config.warmup.order == "mixed",
                seed=config.seed,
            ),
            config.warmup,
            world=self._world,
            token_budget=config.micro_batch_tokens,
            max_grad_norm=config.max_grad_norm,
        )
        checkpoints = self._path / WARMUP
        if (found := latest_checkpoint(checkpoints)) is not None:
            trainer.load_state_dict(load_checkpoint(found))
            self._note(f"warm-up continues at step {trainer.steps_done}")
        if self._console:
            self._console.stage("Warming up", f"{config.warmup.steps} supervised steps")
        asked = False
        with graceful_stop(self._note) as stop:
            while trainer.steps_done < config.warmup.steps and not asked:
                loss, tokens = trainer.step()
                done = trainer.steps_done
                if self._console:
                    self._console.progress(
                        "Warming up", done, config.warmup.steps, loss=round(loss, 3), tokens=tokens
                    )
                asked = self._world.broadcast(stop.asked)
                if asked or (done % config.warmup.save_steps == 0 and done < config.warmup.steps):
                    self._save(checkpoints, done, trainer.state_dict())
        if self._world.is_main and trainer.steps_done == config.warmup.steps:
            merged = cast_parameters(merge_lora(policy.model), self._dtype)
            save_model(merged, policy.tokenizer, self._path / BASE)
        if asked:
            raise KeyboardInterrupt

    def _demonstrations(self, task: PreparedTask, tokenizer: Any) -> list[Demonstration]:
        """Prompt and reference answer of every training example, easiest first."""
        ranked = sorted(task.train, key=lambda e: 0.5 if e.difficulty is None else e.difficulty)
        limit = task.config.max_completion_length or self._config.max_completion_length
        end = turn_end_id(tokenizer)
        found = []
        for example in ranked:
            answer = tokenizer(task.task.answer(example), add_special_tokens=False).input_ids
            if len(answer) < limit:
                prompt_ids = task.prompts[example.key][1]
                found.append(Demonstration(task.name, prompt_ids, (*answer, end)))
        if len(found) < len(ranked):
            self._note(
                f"{task.name}: {len(ranked) - len(found)} of {len(ranked)} reference answers are "
                f"longer than {limit} tokens and sit out the warm-up"
            )
        return found

    def _note(self, text: str) -> None:
        if self._console:
            self._console.note(text)
