"""verl's synchronous trainer with the coordinator on its driver. The hooks, in a step's order:

    _fetch_one_gen_batch   plan -> the rows of verl's data loader (`PlanSampler`)
    (verl)                 rollout and reward, log-probs, the reference's
    _compute_advantage     verdicts -> advantages and KL coefficients; observe groups
    _update_actor          gradient probe; verl's update with our loss; observe update
    _save_checkpoint       the step's record; (verl) the coordinator, as the data loader's state

verl's methods are wrapped, never copied.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from ray.exceptions import GetTimeoutError, RayActorError
from tensordict import TensorDict
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.rl_dataset import collate_fn

from astor_rl.config import RunConfig
from astor_rl.engines.verl.coordination import Coordination, build_coordinator
from astor_rl.engines.verl.figures import ledger_before
from astor_rl.engines.verl.groups import NO_GROUP, Groups, Halves, Verdict
from astor_rl.engines.verl.loss import KL_COEF, SAMPLES, TASK_ID, astor_loss
from astor_rl.engines.verl.probe import PROBE_ROW, REQUEST, ProbeRequest
from astor_rl.engines.verl.records import Records
from astor_rl.engines.verl.sampler import PlanSampler
from astor_rl.engines.verl.worker import ANSWER, AstorWorker
from astor_rl.errors import RewardError
from astor_rl.plan import GradientProbe, UpdateStats
from astor_rl.policy.ledger import Ledger
from astor_rl.policy.sketch import probe_seed

_PING_S = 30.0
"""How long a reward worker may take to say that it lives."""


class AstorTrainer(PPOTrainerSync):  # type: ignore[misc]  # verl has no types
    """One run on a Ray cluster.

    Args:
        config: verl's configuration, from `hydra.compose`.
        run: the run it was made from.
        folder: the run folder.
    """

    def __init__(self, config: Any, run: RunConfig, folder: Path) -> None:
        super().__init__(config)
        self._run = run
        self._records = Records(folder)
        self._groups: Groups | None = None
        self._metrics: dict[str, Any] = {}
        self._seconds: dict[str, float] = {}

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        self.coordination = _coordination(self._run, self.train_dataset.dataframe)
        self.train_dataloader = StatefulDataLoader(
            dataset=self.train_dataset,
            batch_size=self.config.data.train_batch_size,
            num_workers=0,
            drop_last=True,
            collate_fn=collate_fn,
            sampler=PlanSampler(self.coordination),
        )

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            if "actor" in str(role):
                self.role_worker_mapping[role] = ray.remote(AstorWorker)

    def _setup(self) -> None:
        super()._setup()
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        names = [task.name for task in self._run.tasks]
        self.actor_rollout_wg.set_loss_fn(partial(astor_loss, config=actor, tasks=names))

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        # The loader's state is taken up when it is iterated; the revision is wanted before.
        self.train_dataloader_it = iter(self.train_dataloader)
        self._records.begin(self.global_steps)

    def _fetch_one_gen_batch(self) -> TensorDict:
        started = time.perf_counter()
        batch = super()._fetch_one_gen_batch()
        # Names that lead back to the plan, and the same in every run of the same seed.
        tu.assign_non_tensor_stack(batch, "uid", self.coordination.uids())
        self._seconds = {"plan": time.perf_counter() - started}
        return batch

    def _step_once(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super()._step_once(*arguments, **options)
        except RuntimeError:
            # A batch without a single verdict says nothing of why.
            self._require_reward_workers()
            raise

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], **options: Any) -> Any:
        # Rollouts come in as they finish; in the plan's order a resumed run adds up the same sums.
        batch.reorder(sorted(range(len(batch)), key=lambda row: _place(batch.keys[row])))
        return super()._balance_batch(batch, metrics, **options)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        started = time.perf_counter()
        groups = self._judged(batch)
        groups.require_verdicts()
        if groups.lost:
            self._require_reward_workers()
        batch = self._put_columns(batch, groups)
        self.coordination.observe_groups(groups.outcomes())
        self._groups = groups
        metrics.update(groups.metrics())
        metrics["rollouts/lost"] = groups.lost
        self._seconds["observe"] = time.perf_counter() - started
        return batch

    def _judged(self, batch: Any) -> Groups:
        """The batch's rows with their verdicts, aligned with its keys."""
        data = self._get(batch, ["uid", "extra_fields"])
        synthetic = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        uids, extras = _listed(data["uid"]), _listed(data["extra_fields"])
        slots = [
            NO_GROUP if padding else self.coordination.item_of(uid).slot
            for uid, padding in zip(uids, synthetic, strict=True)
        ]
        verdicts = [
            None if padding else Verdict.read(extra["reward_extra_info"])
            for extra, padding in zip(extras, synthetic, strict=True)
        ]
        tokens = [int(tag["response_len"]) for tag in batch.tags]
        return Groups(self.coordination.current().items, slots, verdicts, tokens, self._run)

    def _put_columns(self, batch: Any, groups: Groups) -> Any:
        """Our advantages in place of verl's, the loss's columns, and no loss where unjudged."""
        mask = self._get(batch, ["response_mask"])["response_mask"]
        offsets = mask.offsets()
        kept = torch.repeat_interleave(groups.valid.to(mask.values()), offsets.diff())
        masked = torch.nested.nested_tensor_from_jagged(mask.values() * kept, offsets=offsets)
        advantages = torch.repeat_interleave(groups.advantages, offsets.diff()) * masked.values()
        nested = torch.nested.nested_tensor_from_jagged(advantages, offsets=offsets)
        columns = {
            "response_mask": masked,
            "loss_mask": masked,
            "advantages": nested,
            "returns": nested,
            KL_COEF: groups.kl_coef,
            TASK_ID: groups.task_id,
        }
        fields = TensorDict(columns, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _require_reward_workers(self) -> None:
        """Raises `RewardError` when one is gone: verdicts would be lost from then on."""
        handles = self.reward_loop_manager.reward_loop_worker_handles or []
        for number, handle in enumerate(handles):
            try:
                ray.get(handle.__ray_ready__.remote(), timeout=_PING_S)
            except (RayActorError, GetTimeoutError) as error:
                raise RewardError(
                    f"reward worker {number + 1} of {len(handles)} is gone "
                    f"({type(error).__name__}); resume from the last checkpoint"
                ) from None

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        groups, plan = self._groups, self.coordination.current()
        assert groups is not None  # verl computes advantages before an update
        ledger = self._ledger(batch, groups)
        halves = groups.halves() if plan.probe else None
        probe = None if halves is None else self._measure(batch, halves, metrics)
        batch.extra_info[SAMPLES] = int(groups.valid.sum())
        batch = super()._update_actor(batch, metrics)
        started = time.perf_counter()
        self._observe_update(ledger, groups, probe, metrics)
        self._seconds["update"] = time.perf_counter() - started
        metrics["time/coordination"] = sum(self._seconds.values())
        self._metrics = metrics
        return batch

    def _ledger(self, batch: Any, groups: Groups) -> Ledger:
        columns = ["response_mask", "old_log_probs", "ref_log_prob", "rollout_log_probs"]
        data = self._get(batch, columns).to_padded_tensor()
        return ledger_before(
            groups,
            self._run,
            mask=data["response_mask"],
            old_logprobs=data["old_log_probs"],
            ref_logprobs=data.get("ref_log_prob", None),
            sampler_logprobs=data.get("rollout_log_probs", None),
        )

    def _measure(self, batch: Any, halves: Halves, metrics: dict[str, Any]) -> GradientProbe:
        """Half-gradients of all ranks; the weights stay what they are."""
        fields = TensorDict({PROBE_ROW: halves.row_of}, batch_size=len(batch))
        batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        options, run = self._run.synergy, self._run
        request = ProbeRequest(
            samples=halves.samples,
            horizon=0 if run.loss_type == "grpo" else run.max_completion_length,
            total=options.gradient == "total",
            sketch_dim=options.sketch_dim,
            memory_limit_mb=options.memory_limit_mb,
            seed=probe_seed(run.seed, self.coordination.revision),
        )
        batch.extra_info.update(
            {REQUEST: asdict(request), "temperature": run.temperature, "calculate_entropy": False}
        )
        answer = tu.get(self.actor_rollout_wg.half_gradients(batch), ANSWER)
        metrics["time/probe"] = answer["seconds"]
        return GradientProbe(
            tasks=halves.tasks,
            gram_KK=np.asarray(answer["gram"], dtype=np.float64),
            groups=halves.groups,
            sketched=bool(answer["sketched"]),
        )

    def _observe_update(
        self, ledger: Ledger, groups: Groups, probe: GradientProbe | None, metrics: dict[str, Any]
    ) -> None:
        names = [task.name for task in self._run.tasks]
        held = self.use_reference_policy
        plan = self.coordination.current()
        self.coordination.observe_update(
            UpdateStats(
                kl=ledger.kl(names) if held else {},
                loss_tokens=ledger.loss_tokens(names),
                policy_loss_share=ledger.policy_loss_share(names),
                kl_loss_share=ledger.kl_loss_share(names),
                nonzero_groups=groups.nonzero_groups(),
                probe=probe,
            )
        )
        figures = {**ledger.metrics(names), **self.coordination.metrics()}
        if not held:  # without a reference there is no KL: unknown, not 0
            figures = {name: v for name, v in figures.items() if not name.endswith("/kl")}
        metrics.update(figures)
        self._records.plan(plan)

    def _save_checkpoint(self) -> None:
        # What is known of the step goes first: no checkpoint is ahead of the run folder. verl
        # computes its own figures after saving; the record is written again with them.
        self._records.step(self.global_steps, self._metrics, self.timing_raw)
        self._records.sync()
        super()._save_checkpoint()

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: Mapping[str, float], **where: Any
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, **where)
        self._records.step(self.global_steps, metrics, timing_raw)

    def _get(self, batch: Any, columns: Sequence[str]) -> TensorDict:
        return tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=list(columns)
        )


def _coordination(run: RunConfig, rows: Any) -> Coordination:
    """The coordination of an exported data set."""
    keys: dict[str, list[str]] = {}
    levels: dict[str, list[float | None]] = {}
    infos = rows["extra_info"]
    for task, info in zip(rows["data_source"], infos, strict=True):
        keys.setdefault(task, []).append(info["key"])
        levels.setdefault(task, []).append(info["difficulty"])
    known = {
        task: [0.5 if level is None else level for level in found]
        for task, found in levels.items()
        if any(level is not None for level in found)
    }
    places = [(task, i["key"]) for task, i in zip(rows["data_source"], infos, strict=True)]
    return Coordination(build_coordinator(run, keys, known), places)


def _place(key: str) -> tuple[int, ...]:
    """Plan, slot, place in the group and turn, from verl's name of a rollout."""
    return tuple(int(part) for part in key.replace("_", "-").split("-"))


def _listed(column: Any) -> list[Any]:
    """A column that isn't a tensor, as plain values."""
    return column.tolist() if hasattr(column, "tolist") else list(column)
