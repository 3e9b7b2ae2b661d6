"""The update on a tiny model: what it must not depend on, and what the probe must equal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.local.distributed import World, launch, world
from astor_rl.engines.local.model import load_model
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.update import Group, Updater
from astor_rl.errors import ModelError, StateError
from astor_rl.plan import PlanItem
from astor_rl.types import Invalid, Rollout, Score

ALONE = World(0, 1, torch.device("cpu"))
TASKS = ["first", "second"]


def config(**changes: Any) -> RunConfig:
    raw: dict[str, Any] = {
        "model": "unused",
        "dtype": "float32",
        # An epsilon far above the gradients makes Adam's first step proportional to them: Adam's
        # usual sign-like step would blow rounding errors of tiny gradients up to the step's size.
        "adam_epsilon": 10.0,
        "learning_rate": 10.0,
        "max_grad_norm": 1000.0,
        "max_completion_length": 8,
        "micro_batch_tokens": 64,
        "lora": {"r": 4},
        "tasks": [{"name": name, "task": "commit_message", "source": "x"} for name in TASKS],
    }
    return parse_config({**raw, **changes})


def fresh_policy(folder: Path, run: RunConfig, dtype: torch.dtype = torch.float32) -> Policy:
    torch.manual_seed(1)
    return Policy(
        load_model(str(folder), dtype=torch.float32),
        lora=run.lora,
        device=torch.device("cpu"),
        dtype=dtype,
        fused_kernels=run.fused_kernels,
    )


def make_policy(folder: Path, run: RunConfig) -> Policy:
    policy = fresh_policy(folder, run)
    with torch.no_grad():  # a fresh adapter is the reference: move it, so that there is a KL
        for name, parameter in policy.named_trainable():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return policy


def make_groups(seed: int = 0, *, betas: Sequence[float] = (0.1, 0.3)) -> list[Group]:
    """Two tasks with four groups of ragged completions each, half of every task's in each half."""
    rng = np.random.default_rng(seed)
    groups = []
    for slot in range(8):
        task = slot % 2
        prompt = tuple(rng.integers(5, 30, size=rng.integers(3, 9)).tolist())
        rollouts, verdicts = [], []
        for index in range(4):
            length = int(rng.integers(1, 8))
            ids = tuple(rng.integers(5, 30, size=length).tolist())
            rollouts.append(
                Rollout("", prompt, ids, (-3.3,) * length, (1,) * length, 0, "stop", index)
            )
            verdicts.append(Score(float(rng.integers(0, 2)), float(rng.integers(0, 2))))
        verdicts[0] = Score(0.0, 1.0)
        verdicts[1] = Score(1.0 if slot < 6 else 0.0, 0.0)
        if slot >= 6:  # no outcome variance: in the loss, not in the probe
            verdicts[2:] = [Score(0.0, 1.0), Score(0.0, 0.0)]
        item = PlanItem(slot, TASKS[task], f"key{slot}", 4, 8, betas[task], 1.0, half=slot // 2 % 2)
        groups.append(Group(item, tuple(rollouts), tuple(verdicts)))
    return groups


def weights_after(
    folder: Path, run: RunConfig, groups: Sequence[Group], *, probe: bool = False
) -> tuple[dict[str, torch.Tensor], Any]:
    policy = make_policy(folder, run)
    result = Updater(policy, run, task_names=TASKS, world=ALONE).update(groups, probe=probe, step=0)
    return {name: p.detach().clone() for name, p in policy.named_trainable()}, result


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo", "dapo"])
def test_the_size_of_bins_changes_nothing(tiny_model: Path, loss_type: str) -> None:
    groups = make_groups()
    small, _ = weights_after(tiny_model, config(loss_type=loss_type, micro_batch_tokens=20), groups)
    large, _ = weights_after(
        tiny_model, config(loss_type=loss_type, micro_batch_tokens=4096), groups
    )
    assert_same(small, large)


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("lora", [{"r": 4}, {"enabled": False}])
def test_fused_kernels_change_nothing(tiny_model: Path, lora: dict[str, Any], probe: bool) -> None:
    results = []
    for fused_kernels in ("auto", "off"):
        run = config(fused_kernels=fused_kernels, lora=lora)
        policy = fresh_policy(tiny_model, run)
        assert (policy.unfused is None) == (fused_kernels == "auto")
        updater = Updater(policy, run, task_names=TASKS, world=ALONE)
        steps = [updater.update(make_groups(step), probe=probe, step=step) for step in range(2)]
        results.append(({n: p.detach() for n, p in policy.named_trainable()}, steps))
    (fused, fused_steps), (plain, plain_steps) = results
    assert_same(fused, plain)
    for one, other in zip(fused_steps, plain_steps, strict=True):
        assert one.stats.kl == pytest.approx(other.stats.kl, rel=1e-3, abs=1e-6)
        assert one.metrics["grad_norm"] == pytest.approx(other.metrics["grad_norm"], rel=1e-3)
        if probe:
            np.testing.assert_allclose(
                one.stats.probe.gram_KK, other.stats.probe.gram_KK, rtol=1e-3, atol=1e-9
            )


def test_probing_changes_nothing_but_what_is_reported(tiny_model: Path) -> None:
    plain, without = weights_after(tiny_model, config(), make_groups())
    probed, with_probe = weights_after(tiny_model, config(), make_groups(), probe=True)
    assert_same(plain, probed)
    assert without.stats.probe is None
    assert with_probe.stats.probe.tasks == tuple(TASKS)
    assert with_probe.metrics["time/probe"] > 0


def policy_gradient(folder: Path, run: RunConfig, groups: Sequence[Group]) -> torch.Tensor:
    """The policy term's gradient of some groups alone, mean over rollouts, by plain torch."""
    policy = make_policy(folder, run)
    total = torch.zeros(())
    samples = 0
    for group in groups:
        outcomes = torch.tensor([v.outcome for v in group.verdicts if isinstance(v, Score)])
        formats = torch.tensor([v.format for v in group.verdicts if isinstance(v, Score)])
        advantages = (outcomes - outcomes.mean()) / outcomes.std() + 0.1 * (
            formats - formats.mean()
        )
        samples += len(outcomes)
        for advantage, rollout in zip(advantages, group.rollouts, strict=True):
            ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]])
            logits = policy.model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
            chosen = torch.tensor(rollout.completion_ids)[:, None]
            logprobs = logits.log_softmax(-1).gather(1, chosen)[:, 0]
            weights = (logprobs.detach() + 3.3).exp().clamp(max=2.0)
            total = total - (weights * advantage * (logprobs - logprobs.detach()).exp()).sum() / 8
    grads = torch.autograd.grad(total / samples, policy.trainable)
    return torch.cat([grad.reshape(-1) for grad in grads]).double()


def test_the_probe_equals_half_gradients_computed_apart(tiny_model: Path) -> None:
    groups = make_groups()
    _, result = weights_after(tiny_model, config(), groups, probe=True)
    probe = result.stats.probe
    halves = [
        [
            group
            for group in groups
            if group.item.task == task and group.item.half == half and group.mixed
        ]
        for task in TASKS
        for half in (0, 1)
    ]
    gradients = torch.stack([policy_gradient(tiny_model, config(), half) for half in halves])
    expected = (gradients @ gradients.T).numpy()
    np.testing.assert_allclose(probe.gram_KK, expected, rtol=1e-4, atol=1e-9)
    assert probe.groups == tuple(len(half) for half in halves)
    assert not probe.sketched


def test_a_task_with_one_half_is_left_out(tiny_model: Path) -> None:
    groups = [g for g in make_groups() if g.item.task == "second" or g.item.half == 0]
    _, result = weights_after(tiny_model, config(), groups, probe=True)
    assert result.stats.probe.tasks == ("second",)


def test_invalid_rollouts_leave_the_group(tiny_model: Path) -> None:
    """A group with an invalid rollout trains like the group that never had it."""
    whole = make_groups()
    marked, shorter = [], []
    for group in whole:
        verdicts = (*group.verdicts[:3], Invalid("the verifier was down"))
        marked.append(Group(group.item, group.rollouts, verdicts))
        shorter.append(Group(group.item, group.rollouts[:3], group.verdicts[:3]))
    one, _ = weights_after(tiny_model, config(), marked)
    other, _ = weights_after(tiny_model, config(), shorter)
    assert_same(one, other)
    assert marked[0].outcome().invalid == 1
    assert len(marked[0].outcome().outcomes) == 3


def test_measured_kl_is_zero_for_a_fresh_adapter_and_positive_after(tiny_model: Path) -> None:
    run = config()
    policy = fresh_policy(tiny_model, run)
    updater = Updater(policy, run, task_names=TASKS, world=ALONE)
    first = updater.update(make_groups(), probe=False, step=0)
    second = updater.update(make_groups(), probe=False, step=1)
    assert max(first.stats.kl.values()) < 1e-10
    assert min(second.stats.kl.values()) > 1e-6


def first_kl(folder: Path, run: RunConfig, *, dtype: torch.dtype) -> tuple[float, Policy]:
    policy = fresh_policy(folder, run, dtype)
    updater = Updater(policy, run, task_names=TASKS, world=ALONE)
    return max(updater.update(make_groups(), probe=False, step=0).stats.kl.values()), policy


def test_dropout_is_switched_off_and_said(tiny_model: Path, tmp_path: Path) -> None:
    """With it on, the same weights would give two log-probs and a KL that is not there."""
    folder = tmp_path / "dropout"
    shutil.copytree(tiny_model, folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "attention_dropout": 0.5}))
    kl, policy = first_kl(folder, config(), dtype=torch.float32)
    assert kl < 1e-10
    assert policy.silenced == 2  # one for each layer
    assert policy.unpackable is None


@pytest.mark.parametrize("lora", [True, False])
def test_bfloat16_compute_starts_at_exactly_no_kl(tiny_model: Path, lora: bool) -> None:
    """The reference computes in the very same types, so that its distance is not rounding."""
    kl, _ = first_kl(tiny_model, config(lora={"enabled": lora}), dtype=torch.bfloat16)
    assert kl == 0.0


def test_without_a_beta_the_kl_is_unknown_not_zero(tiny_model: Path) -> None:
    _, result = weights_after(tiny_model, config(beta=0.0), make_groups(betas=(0.0, 0.0)))
    assert result.stats.kl == {}
    assert not [name for name in result.metrics if name.endswith("/kl")]


def test_full_weights_keep_the_reference_they_started_with(tiny_model: Path) -> None:
    run = config(lora={"enabled": False})
    policy = fresh_policy(tiny_model, run)
    updater = Updater(policy, run, task_names=TASKS, world=ALONE)
    first = updater.update(make_groups(), probe=True, step=0)
    second = updater.update(make_groups(), probe=False, step=1)
    assert max(first.stats.kl.values()) < 1e-10
    assert min(second.stats.kl.values()) > 1e-6
    assert first.stats.probe is not None


def test_more_iterations_use_the_first_log_probs_as_old(tiny_model: Path) -> None:
    """With a clip of almost nothing the second iteration has no policy gradient left to take."""
    once, _ = weights_after(tiny_model, config(beta=0.0), make_groups(betas=(0.0, 0.0)))
    twice, _ = weights_after(
        tiny_model, config(beta=0.0, num_iterations=2), make_groups(betas=(0.0, 0.0))
    )
    moved = max(float((once[n] - twice[n]).abs().max()) for n in once)
    assert moved > 1e-4


def test_clipping_is_measured_over_all_passes(tiny_model: Path) -> None:
    """In the first the ratio is 1; with a clip of almost nothing the second holds tokens back."""
    held = []
    for passes in (1, 2, 3):
        run = config(num_iterations=passes, epsilon=1e-6, epsilon_high=1e-6)
        updater = Updater(make_policy(tiny_model, run), run, task_names=TASKS, world=ALONE)
        metrics = updater.update(make_groups(), probe=False, step=0).metrics
        held.append(max(metrics[f"task/{name}/clip_fraction"] for name in TASKS))
    assert held[0] == 0
    assert 0 < held[1] <= 0.5
    assert held[1] < held[2] <= 2 / 3


def test_a_gradient_that_is_not_finite_is_named_and_not_applied(tiny_model: Path) -> None:
    run = config()
    policy = make_policy(tiny_model, run)
    updater = Updater(policy, run, task_names=TASKS, world=ALONE)
    groups = make_groups(betas=(float("inf"), 0.1))
    before = {name: p.detach().clone() for name, p in policy.named_trainable()}
    with pytest.raises(ModelError, match="RL step 3: the gradient norm is nan"):
        updater.update(groups, probe=False, step=3)
    assert_same(before, dict(policy.named_trainable()))


def test_state_round_trip_continues_bit_for_bit(tiny_model: Path) -> None:
    run = config()
    policies = [make_policy(tiny_model, run) for _ in range(2)]
    straight, resumed = (Updater(p, run, task_names=TASKS, world=ALONE) for p in policies)
    straight.update(make_groups(1), probe=False, step=0)
    resumed.load_state_dict(straight.state_dict())
    for updater in (straight, resumed):
        updater.update(make_groups(2), probe=True, step=1)
    for (name, one), (_, other) in zip(
        policies[0].named_trainable(), policies[1].named_trainable(), strict=True
    ):
        assert torch.equal(one, other), name


def test_state_of_another_adapter_is_refused(tiny_model: Path) -> None:
    small, large = (config(lora={"r": r}) for r in (2, 4))
    saved = Updater(make_policy(tiny_model, small), small, task_names=TASKS, world=ALONE)
    other = Updater(make_policy(tiny_model, large), large, task_names=TASKS, world=ALONE)
    with pytest.raises(StateError, match="has shape"):
        other.load_state_dict(saved.state_dict())


def _cases() -> dict[str, tuple[RunConfig, list[Group], list[list[Group]]]]:
    """What two processes are given: the run, all groups, and each rank's."""
    whole = make_groups()
    narrow = [
        Group(g.item, g.rollouts[:2], g.verdicts[:2]) if g.item.task == "second" else g
        for g in whole
    ]
    twice = config(num_iterations=2)
    return {
        # Each rank has all groups of a task: the other must not wait for its halves.
        "even": (config(), whole, [whole[::2], whole[1::2]]),
        "narrower on one rank": (config(), narrow, [narrow[::2], narrow[1::2]]),
        "none on one rank": (twice, whole, [whole, []]),
        "one group": (config(), whole[:1], [whole[:1], []]),
    }


def _update_in_process(folder: str, target: str) -> None:
    with world(threads=1) as here:
        for name, (run, _, parts) in _cases().items():
            policy = make_policy(Path(folder), run)
            updater = Updater(policy, run, task_names=TASKS, world=here)
            result = updater.update(parts[here.rank], probe=True, step=0)
            weights = {name: p.detach() for name, p in policy.named_trainable()}
            probe = result.stats.probe
            gram = None if probe is None else torch.tensor(probe.gram_KK)
            torch.save({"weights": weights, "gram": gram}, f"{target}/{name}{here.rank}.pt")


@pytest.mark.slow
def test_two_processes_train_like_one(tiny_model: Path, tmp_path: Path) -> None:
    launch(_update_in_process, (str(tiny_model), str(tmp_path)), processes=2)
    for name, (run, groups, _) in _cases().items():
        alone, result = weights_after(tiny_model, run, groups, probe=True)
        for rank in range(2):
            saved = torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True)
            assert_same(saved["weights"], alone)
            if result.stats.probe is None:
                assert name == "one group"
                assert saved["gram"] is None
                continue
            np.testing.assert_allclose(
                saved["gram"].numpy(), result.stats.probe.gram_KK, rtol=1e-3, atol=1e-9
            )
