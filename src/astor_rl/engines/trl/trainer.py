"""`AstorGRPOTrainer`: TRL's trainer; the coordinator decides its batches and KL coefficients.

It wraps methods of TRL, it copies none. A step is TRL's own; what is added is, in its order:

    _generate_and_score_completions   plan -> the plan's prompts -> observe_groups
    compute_loss                      TRL's loss for each set of rows with one beta; measure
    training_step                     observe_update, after the last micro-batch
    _save_checkpoint, _load_...       the coordinator's state beside TRL's
"""

from __future__ import annotations

import copy
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from astor_rl.coordinator import Coordinator, CoordinatorOptions
from astor_rl.engines.preparation import difficulties
from astor_rl.engines.trl import capabilities
from astor_rl.engines.trl.data import COLUMN, Library, TaskData
from astor_rl.engines.trl.judge import Judge
from astor_rl.engines.trl.measure import HalfGradients, StepMeasures
from astor_rl.engines.trl.rows import (
    BETA,
    HALF,
    NO_HALF,
    TASK,
    homogeneous,
    loss_mask,
    merge_metrics,
    part_weight,
    take,
)
from astor_rl.engines.trl.state import load_state, save_state
from astor_rl.engines.trl.upstream import GRPOConfig, GRPOTrainer
from astor_rl.errors import CapabilityError
from astor_rl.plan import GroupOutcome, PlanItem, StepPlan, TaskSpec
from astor_rl.policy.sketch import probe_seed
from astor_rl.types import Score

_OURS = ("reward_funcs", "train_dataset", "eval_dataset", "tools", "rollout_func")
_REFUSED = (*_OURS, "environment_factory", "reward_processing_classes")


class AstorGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` on several tasks, coordinated.

    Args:
        model: as TRL takes it.
        tasks: what to train on; they bring prompts and rewards.
        args: TRL's config. `beta` is the base KL coefficient of tasks that name none; it is 0
            unless set, and then there is nothing to calibrate.
        options: the coordinator's; defaults are docs/method.md's.
        format_weight: w_f; TRL's reward of a rollout is outcome + w_f format. Only outcomes
            enter the utilities.
        on_task_change: what a resume does when the tasks are others than those saved.
        trainer_options: the rest of TRL's arguments (`processing_class`, `peft_config`,
            `callbacks`, `optimizers`, `quantization_config`).

    Raises:
        CapabilityError: TRL is of another version, or something was asked for that it can't
            honour (docs/trl.md, Limits).
        ConfigError: tasks or options are wrong.

    Attributes:
        coordinator: for its snapshot, metrics and receipts.
        plan: the last step's, with its receipt; None before the first.
    """

    def __init__(
        self,
        model: Any,
        tasks: Sequence[TaskData],
        args: GRPOConfig,
        *,
        options: CoordinatorOptions | None = None,
        format_weight: float = 0.1,
        on_task_change: Literal["error", "adapt"] = "error",
        **trainer_options: Any,
    ) -> None:
        self._options = options or CoordinatorOptions()
        capabilities.check_version()
        capabilities.check_args(args, self._options.synergy)
        capabilities.check_tasks(tasks, args)
        for name in _REFUSED:
            if trainer_options.get(name) is not None:
                raise CapabilityError(f"{name} was given; with AstorGRPOTrainer tasks bring it")
        tasks = [replace(t, beta=args.beta if t.beta is None else t.beta) for t in tasks]
        prompts_per_step = args.generation_batch_size // args.num_generations
        self.coordinator = Coordinator(
            [_spec(task, args) for task in tasks],
            prompts_per_step=prompts_per_step,
            options=self._options,
            seed=args.seed,
        )
        self._library = Library(tasks)
        self._judge = Judge(self._library, format_weight=format_weight)
        self._on_task_change = on_task_change
        self._measures: StepMeasures | None = None
        self._seen_logprobs: Tensor | None = None
        self._planning_seconds = 0.0
        self.plan: StepPlan | None = None
        args = copy.copy(args)
        args.remove_unused_columns = False  # the evaluation set's column of ours is used
        args.beta = max(task.beta or 0.0 for task in tasks)  # whether TRL keeps a reference
        super().__init__(
            model=model,
            reward_funcs=[self._judge.reward],
            args=args,
            train_dataset=self._library.placeholder(prompts_per_step),
            eval_dataset=self._library.evaluation(),
            **trainer_options,
        )
        capabilities.check_model(aux_loss=self.aux_loss_enabled)
        self._judge.ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's rows in, the plan's rows used: planned by the policy that samples them."""
        if not self.model.training:
            return self._evaluated(inputs)
        started = time.perf_counter()
        plan = self.coordinator.plan(revision=self.state.global_step)
        self.plan = plan
        rows = [
            self._library.row(item.task, item.key)
            for item in plan.items
            for _ in range(item.num_generations)
        ]
        self.beta = max(item.beta for item in plan.items)
        self._planning_seconds = time.perf_counter() - started
        try:
            output: dict[str, Any] = super()._generate_and_score_completions(rows)
        except BaseException:
            self.coordinator.forget(plan.id)
            raise
        started = time.perf_counter()
        groups = self._groups(plan)
        self.coordinator.observe_groups(plan.id, groups)
        halves = self._half_gradients(plan, groups) if plan.probe else None
        self._measures = StepMeasures(
            plan, self._library.names, groups, halves, device=self.accelerator.device
        )
        self._planning_seconds += time.perf_counter() - started
        return self._tagged(output, plan.items, [group.mixed for group in groups])

    def _evaluated(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """An evaluation batch, which no plan asked for, under the base coefficients."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        tasks = [self._library.tasks[row[COLUMN][0]] for row in inputs]
        numbers = [self._library.names.index(task.name) for task in tasks]
        return self._with_rows(
            output, numbers, [NO_HALF] * len(tasks), [task.beta or 0.0 for task in tasks]
        )

    def _tagged(
        self, output: dict[str, Any], items: Sequence[PlanItem], varied: Sequence[bool]
    ) -> dict[str, Any]:
        """TRL's batch with each row's task, half and beta; what nobody judged is masked out."""
        generations = self.num_generations
        names = self._library.names
        judged = torch.tensor([isinstance(v, Score) for v in self._judge.verdicts])
        mask_BT = output["completion_mask"]
        output["completion_mask"] = mask_BT * judged.to(mask_BT)[:, None]
        output["num_items_in_batch"] = output["completion_mask"].sum()
        return self._with_rows(
            output,
            [names.index(item.task) for item in items for _ in range(generations)],
            [
                item.half if mixed else NO_HALF
                for item, mixed in zip(items, varied, strict=True)
                for _ in range(generations)
            ],
            [item.beta for item in items for _ in range(generations)],
        )

    def _with_rows(
        self, output: dict[str, Any], tasks: list[int], halves: list[int], betas: list[float]
    ) -> dict[str, Any]:
        device = output["completion_ids"].device
        rows: Mapping[str, Any] = {TASK: tasks, HALF: halves, BETA: betas}
        tags = {
            name: torch.tensor(
                values, dtype=torch.float64 if name == BETA else torch.long, device=device
            )
            for name, values in rows.items()
        }
        return {**output, **tags}

    def _groups(self, plan: StepPlan) -> list[GroupOutcome]:
        groups = []
        for item in plan.items:
            rows = slice(item.slot * item.num_generations, (item.slot + 1) * item.num_generations)
            verdicts = self._judge.verdicts[rows]
            outcomes = tuple(v.outcome for v in verdicts if isinstance(v, Score))
            groups.append(
                GroupOutcome(
                    slot=item.slot,
                    outcomes=outcomes,
                    invalid=len(verdicts) - len(outcomes),
                    tokens=sum(self._judge.tokens[rows]),
                )
            )
        return groups

    def _half_gradients(self, plan: StepPlan, groups: Sequence[GroupOutcome]) -> HalfGradients:
        samples: Counter[tuple[int, int]] = Counter()
        members: Counter[tuple[int, int]] = Counter()
        for group in groups:
            if not group.mixed:
                continue
            item = plan.items[group.slot]
            half = (self._library.names.index(item.task), item.half)
            samples[half] += len(group.outcomes)
            members[half] += 1
        return HalfGradients(
            samples,
            members,
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            self._options.synergy,
            max_completion_length=self.max_completion_length,
            seed=probe_seed(self.args.seed, plan.revision),
        )

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's, remembered: `compute_loss` measures from the log-probs that it trains on."""
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._seen_logprobs = found[0]
        return found

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """TRL's loss with each row's own beta: a weighted sum over rows that share one."""
        mode = "train" if self.model.training else "eval"
        measures = self._measures if mode == "train" else None
        parts = homogeneous(inputs, halves=measures is not None and measures.halves is not None)
        kept, logged = self._metrics[mode], []
        losses: list[Tensor] = []
        held = self.beta
        try:
            for rows in parts:
                part = take(inputs, rows)
                self.beta = float(part[BETA][0])
                self._metrics[mode] = defaultdict(list)
                loss = super().compute_loss(model, part, return_outputs, num_items_in_batch)
                losses.append(loss * part_weight(self.loss_type, inputs, rows))
                logged.append((float(loss_mask(part).sum()), self._metrics[mode]))
                if measures and self._seen_logprobs is not None:
                    measures.observe(part, self._seen_logprobs, self.loss_type)
        finally:
            self._metrics[mode], self.beta, self._seen_logprobs = kept, held, None
        for name, value in merge_metrics(logged).items():
            kept[name].append(value)
        return torch.stack(losses).sum()

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """TRL's; after the last micro-batch the coordinator is told what was measured."""
        output = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients and self._measures is not None:
            self._observe_update(self._measures)
            self._measures = None
        return output

    def _observe_update(self, measures: StepMeasures) -> None:
        stats = measures.stats()
        started = time.perf_counter()
        plan = measures.plan
        self.coordinator.observe_update(plan.id, plan.revision + 1, stats)
        metrics = self.coordinator.metrics()
        metrics["time/coordination"] = self._planning_seconds + time.perf_counter() - started
        if measures.halves:
            metrics["time/probe"] = measures.halves.seconds
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The coordinator's state first: a checkpoint that TRL has finished always has it."""
        name = f"checkpoint-{self.state.global_step}"
        folder = Path(os.path.join(self._get_output_dir(trial=trial), name))
        save_state(folder, self.coordinator.state_dict())
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """TRL's, and the coordinator's state.

        Raises:
            StateError: the checkpoint has none, or it is of other tasks or prompts.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.coordinator.load_state_dict(
                load_state(Path(checkpoint)), on_task_change=self._on_task_change
            )


def _spec(task: TaskData, args: GRPOConfig) -> TaskSpec:
    return TaskSpec(
        name=task.name,
        keys=tuple(example.key for example in task.examples),
        ratio=task.ratio,
        beta=task.beta or 0.0,
        num_generations=args.num_generations,
        max_tokens=args.max_completion_length,
        difficulty=difficulties(task.examples),
    )
