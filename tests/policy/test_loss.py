from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from astor_rl.errors import ConfigError
from astor_rl.policy.ledger import Ledger
from astor_rl.policy.loss import LossBatch, LossConfig, LossNormalizer, grpo_loss, loss_mask

LOSS_TYPES = ["grpo", "dr_grpo", "bnpo", "dapo"]
LIMIT = 9


class Padded:
    """Random [B, L] tensors as TRL has them, and the same as flat tokens."""

    def __init__(self, seed: int = 0, *, beta: float = 0.2) -> None:
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        lengths = torch.tensor([9, 1, 4, 6, 2, 9])
        self.here = torch.arange(LIMIT) < lengths[:, None]
        self.logprobs = -noise(6, LIMIT).abs()
        self.old = self.logprobs + 0.25 * noise(6, LIMIT)
        self.ref = self.logprobs + 0.5 * noise(6, LIMIT)
        self.sampler = self.old + 0.8 * noise(6, LIMIT)
        self.advantages = noise(6)
        # One token inside a completion came from the environment.
        self.mask = self.here.clone()
        self.mask[0, 3] = False
        self.sample_T = torch.arange(6)[:, None].expand(6, LIMIT)[self.here]
        self.batch = LossBatch(
            sample_T=self.sample_T,
            mask_T=self.mask[self.here],
            advantages_M=self.advantages,
            beta_M=torch.full((6,), beta),
            task_M=torch.tensor([0, 0, 1, 1, 1, 2]),
            old_logprobs_T=self.old[self.here],
            ref_logprobs_T=self.ref[self.here],
        )

    def loss(self, config: LossConfig, batch: LossBatch | None = None) -> tuple[Any, Tensor]:
        """The terms, and the gradient with respect to the flat log-probs."""
        batch = batch or self.batch
        logprobs = self.logprobs[self.here].requires_grad_()
        normalizer = LossNormalizer(batch, config, tasks=3)
        terms = grpo_loss(logprobs, batch, normalizer, config)
        (gradient,) = torch.autograd.grad(terms.policy + terms.kl, logprobs)
        return terms, gradient


def trl_loss(data: Padded, loss_type: str, *, beta: float, corrected: bool) -> Tensor:
    """TRL 1.16's published formula for one batch without accumulation, recomputed."""
    logprobs = data.logprobs.clone().requires_grad_()
    mask = data.mask.float()
    ratio = (logprobs - data.old).exp()
    gap = data.ref - logprobs
    kl = gap.exp() - gap - 1
    if corrected:
        kl = kl * ratio
    advantages = data.advantages[:, None]
    token_loss = -torch.min(ratio * advantages, ratio.clamp(1 - 0.2, 1 + 0.28) * advantages)
    token_loss = token_loss + beta * kl
    if loss_type == "grpo":
        loss = ((token_loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    elif loss_type == "dr_grpo":
        loss = (token_loss * mask).sum() / (len(mask) * LIMIT)
    else:
        loss = (token_loss * mask).sum() / mask.sum()
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return torch.cat([loss.detach()[None], gradient[data.here]])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("truncated", [False, True])
def test_equals_trl(loss_type: Any, corrected: bool, truncated: bool) -> None:
    data = Padded()
    if truncated:  # mask_truncated_completions empties the first and last rows' masks
        cut = torch.tensor([True, False, False, False, False, True])
        mask_T = loss_mask(
            data.batch.mask_T, data.sample_T, truncated_M=cut, mask_truncated_completions=True
        )
        data.mask[cut] = False
        data.batch = replace(data.batch, mask_T=mask_T)
    config = LossConfig(
        loss_type=loss_type,
        epsilon_high=0.28,
        kl_estimator="k3_ratio" if corrected else "k3",
        max_completion_length=LIMIT,
    )
    terms, gradient = data.loss(config)
    mine = torch.cat([(terms.policy + terms.kl).detach()[None], gradient])
    expected = trl_loss(data, loss_type, beta=0.2, corrected=corrected)
    torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("task_norm", ["none", "task"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_any_split_gives_the_same_gradient(loss_type: Any, task_norm: Any, level: Any) -> None:
    data = Padded()
    batch = replace(
        data.batch,
        beta_M=torch.rand(6),
        sampler_logprobs_T=data.sampler[data.here],
    )
    config = LossConfig(
        loss_type=loss_type, task_norm=task_norm, importance_level=level, kl_estimator="k2"
    )
    whole, gradient = data.loss(config, batch)
    normalizer = LossNormalizer(batch, config, tasks=3)
    for split in ([[0, 1, 2], [3, 4, 5]], [[5, 0], [2], [1, 4], [3]]):
        logprobs = data.logprobs[data.here].requires_grad_()
        ledger = Ledger.empty(3)
        for members in split:
            token_T = torch.isin(data.sample_T, torch.tensor(members)).nonzero()[:, 0]
            terms = grpo_loss(logprobs[token_T], batch.select(token_T), normalizer, config)
            (terms.policy + terms.kl).backward()
            ledger = ledger + terms.ledger
        torch.testing.assert_close(logprobs.grad, gradient)
        torch.testing.assert_close(ledger.sums, whole.ledger.sums)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("task_norm", ["none", "task"])
def test_ranks_that_sum_their_counts_sum_to_the_whole(loss_type: Any, task_norm: Any) -> None:
    data = Padded()
    config = LossConfig(loss_type=loss_type, task_norm=task_norm)
    _, gradient = data.loss(config)
    shares = []
    for members in (torch.tensor([0, 2, 5]), torch.tensor([1, 3, 4])):
        mine_T = torch.isin(data.sample_T, members)
        part = data.batch.select(mine_T.nonzero()[:, 0])
        renumber = torch.full((6,), -1)
        renumber[members] = torch.arange(3)
        part = replace(
            part,
            sample_T=renumber[part.sample_T],
            **{n: getattr(part, n)[members] for n in ("advantages_M", "beta_M", "task_M")},
        )
        shares.append((mine_T, part, LossNormalizer(part, config, tasks=3)))
    total = shares[0][2].counts_2K + shares[1][2].counts_2K
    for mine_T, part, normalizer in shares:
        normalizer.all_reduce(lambda counts: counts.copy_(total))
        logprobs = data.logprobs[data.here][mine_T].requires_grad_()
        terms = grpo_loss(logprobs, part, normalizer, config)
        (terms.policy + terms.kl).backward()
        torch.testing.assert_close(logprobs.grad, gradient[mine_T])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("task_norm", ["none", "task"])
@pytest.mark.parametrize("estimator", ["k3", "k3_ratio", "k2"])
def test_kl_over_policy_coefficient_is_beta(loss_type: Any, task_norm: Any, estimator: Any) -> None:
    """On policy, with unit advantage, the gradients' ratio is beta times the estimator's slope."""
    data = Padded()
    beta_M = torch.tensor([0.1, 0.01, 1.0, 0.001, 3.0, 0.5])
    batch = replace(
        data.batch,
        advantages_M=torch.ones(6),
        beta_M=beta_M,
        old_logprobs_T=None,
        sampler_logprobs_T=data.sampler[data.here],
    )
    config = LossConfig(loss_type=loss_type, task_norm=task_norm, kl_estimator=estimator)
    logprobs = data.logprobs[data.here].requires_grad_()
    terms = grpo_loss(logprobs, batch, LossNormalizer(batch, config, tasks=3), config)
    (policy,) = torch.autograd.grad(terms.policy, logprobs, retain_graph=True)
    (kl,) = torch.autograd.grad(terms.kl, logprobs)
    gap = (data.logprobs - data.ref)[data.here]
    slope = 1 - (-gap).exp() if estimator == "k3" else gap
    seen = batch.mask_T
    assert (policy[~seen] == 0).all()
    assert (kl[~seen] == 0).all()
    expected = beta_M[data.sample_T][seen]
    torch.testing.assert_close(-(kl / policy)[seen] / slope[seen], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_sampler_weight(level: Any) -> None:
    data = Padded()
    config = LossConfig(importance_level=level, importance_cap=1.5)
    plain, _ = data.loss(config)
    sampler_T = data.sampler[data.here].clone()
    sampler_T[1] = torch.nan  # not known: counts as equal
    sampler_T[~data.batch.mask_T] = torch.nan
    weighted, _ = data.loss(config, replace(data.batch, sampler_logprobs_T=sampler_T))
    gap = torch.where(data.mask, data.old - data.sampler, 0.0)
    gap[0, 1] = 0
    if level == "sequence":
        gap = gap.sum(dim=1, keepdim=True).expand_as(gap)
    weight_T = gap.exp().clamp(max=1.5)[data.here]
    assert (weight_T == 1.5).any()
    assert (weight_T < 1).any()
    # Policy and KL terms carry the same weight; recompute both from their per-token parts.
    for name in ("policy", "kl"):
        parts = [term(data.loss(config, only(data, t))[0], name) for t in range(len(weight_T))]
        total = term(plain, name)
        assert sum(parts) == pytest.approx(total, rel=1e-5)
        expected = float((torch.tensor(parts) * weight_T).sum())
        assert term(weighted, name) == pytest.approx(expected, rel=1e-5)


def term(terms: Any, name: str) -> float:
    return float(getattr(terms, name).detach())


def only(data: Padded, token: int) -> LossBatch:
    """The batch with all but one token's terms switched off and the denominators kept."""
    ratio_one = data.logprobs[data.here].clone()
    old_T = data.batch.old_logprobs_T.clone()  # type: ignore[union-attr]
    off = torch.arange(len(old_T)) != token
    sample_T = data.batch.sample_T.clone()
    # A seventh completion without advantage and beta takes the others' tokens.
    sample_T[off] = 6
    old_T[off] = ratio_one[off]
    return replace(
        data.batch,
        sample_T=sample_T,
        old_logprobs_T=old_T,
        advantages_M=torch.cat([data.advantages, torch.zeros(1)]),
        beta_M=torch.cat([data.batch.beta_M, torch.zeros(1)]),
        task_M=torch.cat([data.batch.task_M, torch.zeros(1).long()]),
    )


def test_masked_tokens_may_hold_anything() -> None:
    data = Padded()
    config = LossConfig()
    expected, gradient = data.loss(config)
    for poison in (torch.nan, torch.inf, -torch.inf):
        tainted = {
            name: torch.where(data.batch.mask_T, getattr(data.batch, name), poison)
            for name in ("old_logprobs_T", "ref_logprobs_T")
        }
        terms, again = data.loss(config, replace(data.batch, **tainted))
        assert torch.equal(terms.policy, expected.policy)
        assert torch.equal(terms.kl, expected.kl)
        assert torch.equal(again, gradient)


def test_invalid_rollouts_leave_the_denominators() -> None:
    data = Padded()
    valid_M = torch.tensor([True, True, False, True, True, True])
    mask_T = loss_mask(data.batch.mask_T, data.sample_T, valid_M=valid_M)
    batch = replace(data.batch, mask_T=mask_T)
    keep_T = valid_M[data.sample_T]
    for loss_type in LOSS_TYPES:
        config = LossConfig(loss_type=loss_type)  # type: ignore[arg-type]
        normalizer = LossNormalizer(batch, config, tasks=3, valid_M=valid_M)
        mine = grpo_loss(data.logprobs[data.here], batch, normalizer, config)
        rest = replace(
            batch.select(keep_T.nonzero()[:, 0]),
            sample_T=(torch.cumsum(valid_M, 0) - 1)[data.sample_T[keep_T]],
            **{n: getattr(batch, n)[valid_M] for n in ("advantages_M", "beta_M", "task_M")},
        )
        without = LossNormalizer(rest, config, tasks=3)
        expected = grpo_loss(data.logprobs[data.here][keep_T], rest, without, config)
        torch.testing.assert_close(mine.policy, expected.policy)
        torch.testing.assert_close(mine.kl, expected.kl)


def test_task_norm_gives_each_task_the_loss_it_has_alone() -> None:
    data = Padded()
    for loss_type in LOSS_TYPES:
        config = LossConfig(loss_type=loss_type, task_norm="task")  # type: ignore[arg-type]
        joint, _ = data.loss(config)
        alone = []
        for task in range(3):
            mine_M = data.batch.task_M == task
            mask_T = data.batch.mask_T & mine_M[data.sample_T]
            batch = replace(data.batch, mask_T=mask_T)
            normalizer = LossNormalizer(batch, config, tasks=3, valid_M=mine_M)
            alone.append(grpo_loss(data.logprobs[data.here], batch, normalizer, config).policy)
        torch.testing.assert_close(joint.policy, torch.stack(alone).mean())


def test_no_beta_needs_no_reference_and_makes_no_graph() -> None:
    data = Padded(beta=0.0)
    config = LossConfig()
    logprobs = data.logprobs[data.here].requires_grad_()
    for batch in (data.batch, replace(data.batch, ref_logprobs_T=None)):
        normalizer = LossNormalizer(batch, config, tasks=3)
        terms = grpo_loss(logprobs, batch, normalizer, config)
        assert terms.policy.requires_grad
        assert not terms.kl.requires_grad
        assert float(terms.kl) == 0
    # A reference that is at hand is still measured against.
    assert data.loss(config)[0].ledger.kl(["a", "b", "c"])["a"] > 0
    with pytest.raises(ConfigError, match="ref_logprobs_T is missing"):
        data.loss(config, replace(Padded().batch, ref_logprobs_T=None))


def test_first_pass_ratio_is_one_and_has_the_policy_gradient() -> None:
    data = Padded(beta=0.0)
    batch = replace(data.batch, old_logprobs_T=None)
    terms, gradient = data.loss(LossConfig(loss_type="dapo"), batch)
    tokens = batch.mask_T.sum()
    expected = torch.where(batch.mask_T, -data.advantages[data.sample_T] / tokens, 0.0)
    torch.testing.assert_close(gradient, expected)
    assert terms.ledger.metrics(["a", "b", "c"])["task/a/clip_fraction"] == 0


def test_clipping_is_counted_and_stops_the_gradient() -> None:
    mask = torch.ones(4).bool()
    batch = LossBatch(
        sample_T=torch.arange(4),
        mask_T=mask,
        advantages_M=torch.tensor([1.0, -1.0, 1.0, -1.0]),
        beta_M=torch.zeros(4),
        task_M=torch.tensor([0, 0, 0, 1]),
        old_logprobs_T=torch.zeros(4),
    )
    config = LossConfig(epsilon=0.2, epsilon_high=0.0)
    # Too high and good: held; too high and bad: not; low and good: not; too low and bad: held.
    logprobs = torch.tensor([0.1, 0.3, -0.3, -0.3]).requires_grad_()
    terms = grpo_loss(logprobs, batch, LossNormalizer(batch, config, tasks=2), config)
    terms.policy.backward()
    assert (logprobs.grad == 0).tolist() == [True, False, False, True]
    metrics = terms.ledger.metrics(["a", "b"])
    assert metrics["task/a/clip_fraction"] == pytest.approx(1 / 3)
    assert metrics["task/b/clip_fraction"] == 1


def test_a_ratio_of_one_is_not_clipped_however_narrow_the_box() -> None:
    """The box of epsilon = 0 has no width, and on policy every ratio is on both of its walls."""
    data = Padded()
    terms, _ = data.loss(LossConfig(epsilon=0.0), replace(data.batch, old_logprobs_T=None))
    metrics = terms.ledger.metrics(["a", "b", "c"])
    assert [metrics[f"task/{name}/clip_fraction"] for name in "abc"] == [0, 0, 0]


def test_ledger_by_hand() -> None:
    batch = LossBatch(
        sample_T=torch.tensor([0, 0, 1, 1]),
        mask_T=torch.tensor([True, True, True, False]),
        advantages_M=torch.tensor([1.0, -2.0]),
        beta_M=torch.tensor([0.5, 0.25]),
        task_M=torch.tensor([0, 1]),
        ref_logprobs_T=torch.full((4,), -1.0),
    )
    config = LossConfig(loss_type="dapo", kl_estimator="k2")
    entropy = torch.tensor([1.0, 3.0, 5.0, 7.0])
    logprobs = torch.zeros(4)
    terms = grpo_loss(
        logprobs, batch, LossNormalizer(batch, config, tasks=3), config, entropy_T=entropy
    )
    names = ["a", "b", "c"]
    k3 = float(torch.tensor(-1.0).exp())  # e^-1 + 1 - 1, of every token
    assert terms.ledger.loss_tokens(names) == {"a": 2, "b": 1, "c": 0}
    assert terms.ledger.policy_loss_share(names) == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert terms.ledger.kl_loss_share(names) == pytest.approx({"a": 0.8, "b": 0.2, "c": 0})
    assert terms.ledger.kl(names) == pytest.approx({"a": k3, "b": k3})
    doubled = terms.ledger + terms.ledger
    doubled.all_reduce(lambda sums: sums.mul_(2))
    assert doubled.metrics(names) == pytest.approx(
        {
            "task/a/loss_tokens": 8,
            "task/b/loss_tokens": 4,
            "task/c/loss_tokens": 0,
            "task/a/policy_loss_share": 0.5,
            "task/b/policy_loss_share": 0.5,
            "task/c/policy_loss_share": 0,
            "task/a/kl_loss_share": 0.8,
            "task/b/kl_loss_share": 0.2,
            "task/c/kl_loss_share": 0,
            "task/a/kl": k3,
            "task/b/kl": k3,
            "task/a/clip_fraction": 0,
            "task/b/clip_fraction": 0,
            "task/a/entropy": 2,
            "task/b/entropy": 5,
        }
    )
    assert not any(Ledger.empty(3).policy_loss_share(names).values())


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("task_norm", ["none", "task"])
def test_probe_scale_forgets_the_rest_of_the_batch(loss_type: Any, task_norm: Any) -> None:
    """A half's gradient, rescaled, is the same whatever else was in the step."""
    data = Padded(beta=0.0)
    config = LossConfig(loss_type=loss_type, task_norm=task_norm, max_completion_length=LIMIT)
    half_M = torch.tensor([2, 3])  # of task 1
    half_T = torch.isin(data.sample_T, half_M)
    scaled = []
    for others in ([0, 1, 2, 3, 4, 5], [2, 3, 4], [2, 3]):
        present_M = torch.isin(torch.arange(6), torch.tensor(others))
        mask_T = data.batch.mask_T & present_M[data.sample_T]
        batch = replace(data.batch, mask_T=mask_T)
        normalizer = LossNormalizer(batch, config, tasks=3, valid_M=present_M)
        logprobs = data.logprobs[data.here].requires_grad_()
        terms = grpo_loss(logprobs, batch, normalizer, config)
        (gradient,) = torch.autograd.grad(terms.policy, logprobs)
        scaled.append(gradient[half_T] * normalizer.probe_scale(1, len(half_M)))
    torch.testing.assert_close(scaled[1], scaled[0])
    torch.testing.assert_close(scaled[2], scaled[0])
    # ... and is the mean over the half's completions of what one completion gives.
    first = data.sample_T[half_T] == 2
    ratio = (data.logprobs - data.old)[2, 0].exp()
    if 0.8 < float(ratio) < 1.2:
        length = 4 if loss_type == "grpo" else LIMIT
        expected = -data.advantages[2] * ratio / length / 2
        torch.testing.assert_close(scaled[0][first][0], expected)
    with pytest.raises(ConfigError, match="samples of a half-batch is 0"):
        normalizer.probe_scale(1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type is 'ppo'"),
        ({"kl_estimator": "k1"}, "kl_estimator is 'k1'"),
        ({"task_norm": "all"}, "task_norm is 'all'"),
        ({"importance_level": "word"}, "importance_level is 'word'"),
        ({"epsilon": 1.0}, "epsilon is 1.0"),
        ({"epsilon_high": -0.1}, "epsilon_high is -0.1"),
        ({"max_completion_length": 0}, "max_completion_length is 0"),
        ({"importance_cap": 0.0}, "importance_cap is 0.0"),
    ],
)
def test_bad_config(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig(**changes)
