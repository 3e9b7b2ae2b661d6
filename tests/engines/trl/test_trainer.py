"""Real TRL on a tiny model: batches, losses, measurements, resuming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import TrainerCallback

from astor_rl.engines.trl import AstorGRPOTrainer, TaskData
from astor_rl.engines.trl.measure import StepMeasures
from astor_rl.engines.trl.rows import BETA, HALF, NO_HALF, TASK
from astor_rl.engines.trl.state import FILE
from astor_rl.plan import GroupOutcome, StepPlan, UpdateStats
from astor_rl.policy.loss import LossBatch, LossConfig, LossNormalizer, grpo_loss
from astor_rl.sandbox.pool import ProcessPool
from astor_rl.tasks.from_reward import from_reward
from astor_rl.tasks.registry import make_task

LETTERS = {"first": "a", "second": "z"}
BETAS = {"first": 0.05, "second": 0.8}


class Witness:
    """Keeps what passes through a trainer, in order; changes nothing."""

    def __init__(self, trainer: AstorGRPOTrainer) -> None:
        self.plans: list[StepPlan] = []
        self.groups: list[list[GroupOutcome]] = []
        self.stats: list[UpdateStats] = []
        self.inputs: list[dict[str, Any]] = []
        coordinator = trainer.coordinator
        plan, groups, update = (
            coordinator.plan,
            coordinator.observe_groups,
            coordinator.observe_update,
        )

        def see_plan(**asked: Any) -> StepPlan:
            self.plans.append(plan(**asked))
            return self.plans[-1]

        def see_groups(plan_id: int, found: list[GroupOutcome]) -> None:
            self.groups.append(found)
            groups(plan_id, found)

        def see_update(plan_id: int, revision: int, stats: UpdateStats) -> None:
            self.stats.append(stats)
            update(plan_id, revision, stats)

        vars(coordinator).update(
            plan=see_plan, observe_groups=see_groups, observe_update=see_update
        )
        compute_loss = trainer.compute_loss

        def see_inputs(model: Any, inputs: Any, *rest: Any, **options: Any) -> Tensor:
            self.inputs.append(inputs)
            return compute_loss(model, inputs, *rest, **options)

        trainer.compute_loss = see_inputs


def two_betas(guest: Any) -> list[Any]:
    return [guest.data(name, beta=beta) for name, beta in BETAS.items()]


def disturb(trainer: AstorGRPOTrainer) -> None:
    """Take the policy away from its reference, so that there is a KL."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def logprobs(trainer: AstorGRPOTrainer, inputs: dict[str, Any]) -> Tensor:
    """The policy's log-probs by the model alone, with a graph, [B, T]."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    length = inputs["completion_ids"].shape[1]
    logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]
    found = logits.log_softmax(-1).gather(-1, inputs["completion_ids"][..., None])
    return found.squeeze(-1)


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: torch.cat([part[name] for part in parts]) if value.ndim else value
        for name, value in parts[0].items()
    }


def our_gradient(
    trainer: AstorGRPOTrainer, inputs: dict[str, Any], config: LossConfig
) -> list[Tensor]:
    """The gradient of `policy.loss` on the same rows, with the same betas."""
    rows, columns = inputs["completion_ids"].shape
    reference_T = inputs.get("ref_per_token_logps", torch.zeros(rows, columns)).flatten()
    batch = LossBatch(
        sample_T=torch.arange(rows).repeat_interleave(columns),
        mask_T=inputs["completion_mask"].bool().flatten(),
        advantages_M=inputs["advantages"],
        beta_M=inputs[BETA].float(),
        task_M=inputs[TASK],
        ref_logprobs_T=reference_T,
    )
    normalizer = LossNormalizer(batch, config, tasks=2)
    terms = grpo_loss(logprobs(trainer, inputs).flatten(), batch, normalizer, config)
    return list(torch.autograd.grad(terms.policy + terms.kl, list(trainer.model.parameters())))


def first_step(trainer: AstorGRPOTrainer) -> tuple[Witness, list[Tensor]]:
    """Take one step without changing the weights; what was seen, and the gradient TRL made."""
    witness = Witness(trainer)
    gradients: list[Tensor] = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            gradients.extend(p.grad.clone() for p in trainer.model.parameters())

    trainer.add_callback(Keep())
    trainer.train()
    return witness, gradients


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_the_gradient_is_policy_losss_with_every_rows_beta(guest, trainer, loss_type, correction):
    # bnpo's denominator is the micro-batch's, so it is compared on one that is the whole step.
    accumulate = 1 if loss_type == "bnpo" else 2
    one = trainer(
        two_betas(guest),
        loss_type=loss_type,
        use_bias_correction_kl=correction,
        per_device_train_batch_size=24 // accumulate,
        gradient_accumulation_steps=accumulate,
        learning_rate=0.0,
        max_grad_norm=0.0,
        max_steps=1,
    )
    disturb(one)
    witness, found = first_step(one)
    config = LossConfig(
        loss_type=loss_type,
        kl_estimator="k3_ratio" if correction else "k3",
        max_completion_length=6,
    )
    assert len(witness.inputs) == accumulate
    inputs = joined(witness.inputs)
    assert set(inputs[BETA].tolist()) == set(BETAS.values())
    expected = our_gradient(one, inputs, config)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2e-4, atol=2e-6)
    # The betas matter at this tolerance: with one for all, the gradient is another.
    equal = our_gradient(one, {**inputs, BETA: torch.full_like(inputs[BETA], 0.05)}, config)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(equal, found, strict=True))


def test_sequence_ratios_have_the_same_gradient_on_policy(guest, trainer):
    one = trainer(
        two_betas(guest),
        loss_type="grpo",
        importance_sampling_level="sequence",
        learning_rate=0.0,
        max_grad_norm=0.0,
        max_steps=1,
    )
    disturb(one)
    witness, found = first_step(one)
    config = LossConfig(loss_type="grpo", max_completion_length=6)
    expected = our_gradient(one, joined(witness.inputs), config)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2e-4, atol=2e-6)


def test_kl_over_policy_coefficient_is_each_tasks_beta(guest, trainer, monkeypatch):
    parts: list[tuple[dict[str, Any], Tensor]] = []
    observe = StepMeasures.observe

    def keep(self: StepMeasures, inputs: Any, logprobs_BT: Tensor, loss_type: Any) -> None:
        logprobs_BT.retain_grad()
        parts.append((inputs, logprobs_BT))
        observe(self, inputs, logprobs_BT, loss_type)

    monkeypatch.setattr(StepMeasures, "observe", keep)
    # Without a probe: its own pass over the graph would be added to the same `grad`.
    options = replace(guest.options, synergy=replace(guest.options.synergy, enabled=False))
    one = trainer(two_betas(guest), {"options": options}, learning_rate=0.0, max_steps=1)
    disturb(one)
    one.train()
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    for inputs, logprobs_BT in parts:
        # What TRL back-propagated into a token's log-prob: w (-A + beta (1 - pi_ref / pi)).
        weight = 1 / inputs["num_items_in_batch"]
        gap_BT = 1 - torch.exp(inputs["ref_per_token_logps"] - logprobs_BT.detach())
        beta_BT = (logprobs_BT.grad / weight + inputs["advantages"][:, None]) / gap_BT
        chosen_BT = inputs["completion_mask"].bool() & (gap_BT.abs() > 0.05)
        for task in (0, 1):
            found[task].append(beta_BT[chosen_BT & (inputs[TASK] == task)[:, None]])
    for task, beta in enumerate(BETAS.values()):
        betas = torch.cat(found[task])
        assert len(betas) > 20
        torch.testing.assert_close(betas, torch.full_like(betas, beta), rtol=1e-3, atol=2e-4)


def test_equal_betas_leave_trls_loss_as_it_is(guest, trainer):
    one = trainer(
        given={
            "options": replace(guest.options, synergy=replace(guest.options.synergy, enabled=False))
        }
    )
    witness = Witness(one)
    one.train()
    inputs = witness.inputs[0]  # before anything is calibrated
    assert len(set(inputs[BETA].tolist())) == 1
    one.beta = float(inputs[BETA][0])
    assert torch.equal(
        type(one).compute_loss(one, one.model, inputs),
        super(AstorGRPOTrainer, one).compute_loss(one.model, inputs),
    )


def test_every_step_trains_on_the_plan_of_its_own_revision(guest, trainer):
    asked: list[Counter[tuple[str, str]]] = []

    def remember(prompts: Any, completions: Any, letter: Any, **rest: Any) -> list[float]:
        texts = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in prompts]
        asked[-1].update(zip(letter, texts, strict=True))
        return guest.share(completions, letter)

    class Next(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            asked.append(Counter())

    tasks = [guest.data(name, from_reward(remember)) for name in LETTERS]
    one = trainer(tasks)
    one.add_callback(Next())
    witness = Witness(one)
    one.train()
    assert [plan.revision for plan in witness.plans] == [0, 1, 2, 3]
    for plan, prompts in zip(witness.plans, asked, strict=True):
        wanted: Counter[tuple[str, str]] = Counter()
        for item in plan.items:
            example = one._library.example(item.task, item.key)
            wanted[LETTERS[item.task], example.fields["prompt"]] += item.num_generations
        assert prompts == wanted
    assert not one.coordinator.in_flight


def test_outcomes_are_observed_and_formats_only_rewarded(trainer):
    one = trainer(given={"format_weight": 0.5})
    witness = Witness(one)
    one.train()
    seen = {o for groups in witness.groups for group in groups for o in group.outcomes}
    assert max(seen) <= 1
    assert len(seen) > 3
    log = one.state.log_history[0]
    outcomes = [o for group in witness.groups[0] for o in group.outcomes]
    formats = [log[f"task/{item}/reward/format"] for item in LETTERS]
    shares = [log[f"task/{item}/rollouts/length"] for item in LETTERS]
    assert log["reward"] == pytest.approx(
        np.mean(outcomes)
        + 0.5
        * np.average(
            formats, weights=[sum(i.task == n for i in witness.plans[0].items) for n in LETTERS]
        ),
        abs=1e-6,
    )
    assert all(0 < length <= 6 for length in shares)
    tokens = sum(group.tokens for group in witness.groups[0])
    assert tokens == sum(int(part["completion_mask"].sum()) for part in witness.inputs[:2])


def test_kl_is_measured_by_task(guest, trainer):
    one = trainer(two_betas(guest), learning_rate=0.0, max_steps=1)
    disturb(one)
    witness, _ = first_step(one)
    inputs = joined(witness.inputs)
    log_ratio = inputs["ref_per_token_logps"] - logprobs(one, inputs).detach()
    kl = torch.expm1(log_ratio) - log_ratio
    (stats,) = witness.stats
    for number, name in enumerate(BETAS):
        mask = inputs["completion_mask"].bool() & (inputs[TASK] == number)[:, None]
        assert stats.kl[name] == pytest.approx(float(kl[mask].mean()), rel=1e-4)
        assert stats.loss_tokens[name] == int(mask.sum())
        mass = float((inputs["advantages"][:, None].abs() * mask).sum())
        total = float((inputs["advantages"][:, None].abs() * inputs["completion_mask"]).sum())
        assert stats.policy_loss_share[name] == pytest.approx(mass / total, rel=1e-5)
    held = {name: stats.kl[name] * stats.loss_tokens[name] * BETAS[name] for name in BETAS}
    assert stats.kl_loss_share["second"] == pytest.approx(
        held["second"] / sum(held.values()), rel=1e-4
    )
    # TRL's own figure is of all rows, as it would be without the parts.
    whole = sum(stats.kl[n] * stats.loss_tokens[n] for n in BETAS) / sum(stats.loss_tokens.values())
    assert one.state.log_history[0]["kl"] == pytest.approx(whole, rel=2e-2)


def test_without_beta_no_kl_is_made_up(trainer):
    one = trainer(beta=0.0, max_steps=1)
    witness, _ = first_step(one)
    assert one.ref_model is None
    assert not witness.stats[0].kl
    assert "task/first/kl" not in one.state.log_history[0]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("gradient", ["policy", "total"])
def test_the_probe_is_the_gram_of_half_batch_gradients(guest, trainer, loss_type, gradient):
    options = replace(guest.options, synergy=replace(guest.options.synergy, gradient=gradient))
    one = trainer(
        two_betas(guest), {"options": options}, loss_type=loss_type, learning_rate=0.0, max_steps=1
    )
    disturb(one)
    witness, _ = first_step(one)
    inputs, probe = joined(witness.inputs), witness.stats[0].probe
    assert probe is not None
    assert set(probe.tasks) == set(LETTERS)
    current = logprobs(one, inputs)
    mask = inputs["completion_mask"].float()
    log_ratio = inputs["ref_per_token_logps"] - current
    token = -inputs["advantages"][:, None] * current
    if gradient == "total":
        token = token + inputs[BETA][:, None] * (torch.expm1(log_ratio) - log_ratio)
    length = mask.sum(dim=1, keepdim=True) if loss_type == "grpo" else 6
    row = (token * mask / length).sum(dim=1)
    vectors = []
    for task in probe.tasks:
        for half in (0, 1):
            chosen = (inputs[TASK] == list(LETTERS).index(task)) & (inputs[HALF] == half)
            found = torch.autograd.grad(
                row[chosen].mean(), list(one.model.parameters()), retain_graph=True
            )
            vectors.append(torch.cat([part.flatten() for part in found]).double())
    expected = torch.stack(vectors) @ torch.stack(vectors).T
    scale = float(expected.diagonal().max())
    np.testing.assert_allclose(probe.gram_KK, expected.numpy(), rtol=1e-3, atol=1e-6 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"bf16": True}])
def test_checkpointed_and_mixed_precision_steps_are_probed(guest, trainer, changes):
    witnesses = []
    for settings in ({}, changes):
        one = trainer(two_betas(guest), **settings)  # seeds the generators, so before the next
        witnesses.append(Witness(one))
        one.train()
    first, second = witnesses
    ours, theirs = first.stats[0].probe, second.stats[0].probe
    assert ours is not None
    assert theirs is not None
    assert np.isfinite(theirs.gram_KK).all()
    if "gradient_checkpointing" in changes:  # bfloat16 samples other tokens
        np.testing.assert_allclose(theirs.gram_KK, ours.gram_KK, rtol=1e-3, atol=1e-9)
        assert second.plans[-1].items == first.plans[-1].items


def test_probes_come_at_the_interval_and_reach_synergy(trainer):
    one = trainer(max_steps=5)
    witness = Witness(one)
    one.train()
    assert [stats.probe is not None for stats in witness.stats] == [True, False] * 2 + [True]
    assert "task/first/synergy_age" in one.state.log_history[-2]
    assert one.state.log_history[2]["time/probe"] > 0
    assert "time/probe" not in one.state.log_history[1]


def test_what_nobody_could_judge_leaves_its_group(guest, trainer):
    def sometimes(prompts: Any, completions: Any, letter: Any, **_: Any) -> list[float | None]:
        rewards: list[float | None] = list(guest.share(completions, letter))
        rewards[::4] = [None] * len(rewards[::4])
        return rewards

    one = trainer([guest.data(name, from_reward(sometimes)) for name in LETTERS], max_steps=1)
    witness, _ = first_step(one)
    assert all(g.invalid == 1 and len(g.outcomes) == 3 for g in witness.groups[0])
    inputs = joined(witness.inputs)
    silent = inputs["completion_mask"].sum(dim=1) == 0
    assert int(silent.sum()) == 6
    assert not inputs["advantages"][silent].any()
    assert int(inputs["num_items_in_batch"]) == int(inputs["completion_mask"].sum())
    assert one.state.log_history[0]["task/first/rollouts/invalid"] == sum(
        item.task == "first" for item in witness.plans[0].items
    )


def test_groups_of_equal_outcomes_give_no_probe(guest, trainer):
    flat = from_reward(lambda prompts, completions, **_: [0.5] * len(completions), kind="flat")
    one = trainer([guest.data(name, flat) for name in LETTERS], max_steps=1)
    witness, _ = first_step(one)
    assert witness.plans[0].probe
    assert witness.stats[0].probe is None
    assert all(bool((part[HALF] == NO_HALF).all()) for part in witness.inputs)
    assert not any(witness.stats[0].nonzero_groups.values())


@pytest.mark.slow
def test_a_lora_adapter_is_trained_and_probed(trainer):
    lora = LoraConfig(r=4, target_modules="all-linear", exclude_modules=["lm_head"])
    one = trainer(given={"peft_config": lora})
    witness = Witness(one)
    one.train()
    probed = [stats.probe for stats in witness.stats if stats.probe is not None]
    assert probed
    assert all(np.isfinite(probe.gram_KK).all() for probe in probed)
    assert witness.stats[-1].kl["first"] > 0


def test_a_resumed_run_is_the_run_that_was_not_stopped(guest, trainer, tmp_path: Path):
    straight = trainer(two_betas(guest), save_strategy="steps", save_steps=2)
    whole = Witness(straight)
    straight.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert (checkpoint / FILE).is_file()
    resumed = trainer(two_betas(guest), save_strategy="no")
    second = Witness(resumed)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [plan.items for plan in second.plans] == [plan.items for plan in whole.plans[2:]]
    assert second.groups == whole.groups[2:]
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    mine, other = resumed.coordinator.metrics(), straight.coordinator.metrics()
    assert mine == other


@pytest.mark.slow
def test_evaluation_is_by_task(guest, trainer):
    tasks = [
        replace(guest.data(name), eval_examples=guest.data(name).examples[:3]) for name in LETTERS
    ]
    one = trainer(tasks, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4)
    one.train()
    evaluations = [entry for entry in one.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 2
    for entry in evaluations:
        assert 0 <= entry["eval_task/first/reward/mean"] <= 1
        assert 0 <= entry["eval_task/second/reward/mean"] <= 1
    assert not one.coordinator.in_flight


def test_text_prompts_stay_text(guest, trainer):
    seen: list[Any] = []

    def look(prompts: Any, completions: Any, letter: Any, **_: Any) -> list[float]:
        seen.extend(prompts)
        return guest.share(completions, letter)

    one = trainer(
        [guest.data(name, from_reward(look), chat=False) for name in LETTERS], max_steps=1
    )
    witness, _ = first_step(one)
    assert all(isinstance(prompt, str) for prompt in seen)
    plain = {len(text) for text in seen}
    # Without a chat template a prompt is as many tokens as it has characters.
    lengths = joined([{"n": part["prompt_mask"].sum(dim=1)} for part in witness.inputs])["n"]
    assert set(lengths.tolist()) <= plain


@pytest.fixture(scope="module")
def pool() -> Any:
    with ProcessPool(1) as pool:
        yield pool


@pytest.mark.slow
def test_the_projects_own_tasks_judge_in_the_sandbox(
    guest, trainer: Callable[..., AstorGRPOTrainer], pool: ProcessPool
):
    rows = [
        {"code": f"def f(x):\n    return x + {n}", "input": f"{n}", "output": f"{2 * n}"}
        for n in range(6)
    ]
    io = make_task("io_prediction", {"direction": "output"}, pool)
    tasks = [TaskData.from_rows("io", io, rows), guest.data("first", guest.task())]
    one = trainer(tasks, max_steps=2)
    witness = Witness(one)
    one.train()
    judged = [
        group
        for plan, groups in zip(witness.plans, witness.groups, strict=True)
        for group in groups
        if plan.items[group.slot].task == "io"
    ]
    assert judged
    assert all(group.invalid == 0 and group.outcomes == (0.0,) * 4 for group in judged)
