"""The loss on verl's own classes: jagged batches, `FSDPActorConfig`, against our policy loss."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("verl", reason="needs verl: make test-verl")

import torch
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig

from astor_rl.engines.verl.hydra import AGGREGATION
from astor_rl.engines.verl.loss import KL_COEF, SAMPLES, TASK_ID, astor_loss
from astor_rl.errors import CapabilityError
from astor_rl.policy.loss import LossBatch, LossConfig, LossNormalizer, grpo_loss

HORIZON = 7
PROMPTS, LENGTHS = (3, 2, 4, 1), (5, 2, 7, 3)
TASKS = ("io", "code")


def nested(rows: list[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


class Rows:
    """Four completions of two tasks; the last one has no verdict."""

    def __init__(self, *, off_policy: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(scale: float) -> list[Tensor]:
            return [torch.randn(n, generator=generator) * scale for n in LENGTHS]

        self.logprobs = [(-2 + row).requires_grad_() for row in draw(1.0)]
        self.old = [p.detach() + d for p, d in zip(self.logprobs, draw(off_policy), strict=True)]
        self.ref = [p.detach() + d for p, d in zip(self.logprobs, draw(0.5), strict=True)]
        self.advantages = torch.tensor([0.7, -1.2, 0.4, 9.0])
        self.valid = torch.tensor([True, True, True, False])
        self.mask = [torch.ones(n) * bool(v) for n, v in zip(LENGTHS, self.valid, strict=True)]
        self.kl_coef = torch.tensor([0.1, 0.02, 0.1, 0.02])
        self.task_id = torch.tensor([0, 1, 0, 1])
        self.weights = [torch.rand(n, generator=generator) + 0.5 for n in LENGTHS]

    def batch(self, **changes: Any) -> Any:
        prompts = [torch.zeros(n, dtype=torch.int64) for n in PROMPTS]
        responses = [torch.zeros(n, dtype=torch.int64) for n in LENGTHS]
        columns = {
            "prompts": nested(prompts),
            "responses": nested(responses),
            "response_mask": nested(self.mask),
            "old_log_probs": nested(self.old),
            "ref_log_prob": nested(self.ref),
            "rollout_is_weights": nested(self.weights),
            "advantages": nested(
                [torch.full((n,), float(a)) for n, a in zip(LENGTHS, self.advantages, strict=True)]
            ),
            KL_COEF: self.kl_coef,
            TASK_ID: self.task_id,
        }
        columns |= changes
        given = {
            "dp_size": 1,
            "batch_num_tokens": sum(float(m.sum()) for m in self.mask),
            "global_batch_size": 64,  # verl's: of a full batch, synthetic rows included
            SAMPLES: int(self.valid.sum()),
        }
        kept = {name: value for name, value in columns.items() if value is not None}
        return tu.get_tensordict(kept, non_tensor_dict=given)

    def output(self) -> dict[str, Any]:
        """As the model's: a row's log-prob stands where the token before it is read."""
        rows = [
            torch.cat([torch.zeros(prompt - 1), row, torch.zeros(1)])
            for prompt, row in zip(PROMPTS, self.logprobs, strict=True)
        ]
        return {"log_probs": nested(rows)}

    def ours(self, config: LossConfig) -> tuple[Tensor, Tensor]:
        """Policy and KL loss of `policy.loss` on the same numbers."""
        sample_T = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))
        old_T = torch.cat(self.old)
        batch = LossBatch(
            sample_T=sample_T,
            mask_T=torch.cat(self.mask).bool(),
            advantages_M=self.advantages,
            beta_M=self.kl_coef,
            task_M=self.task_id,
            old_logprobs_T=old_T,
            ref_logprobs_T=torch.cat(self.ref),
            sampler_logprobs_T=old_T - torch.cat(self.weights).log(),
        )
        normalizer = LossNormalizer(batch, config, tasks=2, valid_M=self.valid)
        terms = grpo_loss(torch.cat(self.logprobs), batch, normalizer, config)
        return terms.policy, terms.kl


def actor(loss_type: str = "dapo", kl: str = "low_var_kl") -> FSDPActorConfig:
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        ppo_mini_batch_size=2,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=AGGREGATION[loss_type],
        loss_scale_factor=HORIZON if loss_type == "dr_grpo" else None,
        clip_ratio_c=1e6,
        use_kl_loss=True,
        kl_loss_coef=0.0,
        kl_loss_type=kl,
    )


def gradients(loss: Tensor, rows: Rows) -> Tensor:
    return torch.cat(torch.autograd.grad(loss, rows.logprobs, retain_graph=True))


@pytest.mark.parametrize("off_policy", [0.0, 0.3])
@pytest.mark.parametrize("loss_type", ["dapo", "bnpo", "grpo", "dr_grpo"])
def test_loss_and_gradient_are_those_of_our_policy_loss(loss_type: str, off_policy: float):
    rows = Rows(off_policy=off_policy)
    loss, metrics = astor_loss(rows.output(), rows.batch(), config=actor(loss_type), tasks=TASKS)
    config = LossConfig(
        loss_type=loss_type, max_completion_length=HORIZON, importance_cap=float("inf")
    )
    policy, kl = rows.ours(config)
    torch.testing.assert_close(loss, policy + kl)
    torch.testing.assert_close(gradients(loss, rows), gradients(policy + kl, rows))
    assert metrics["astor/kl_loss"].aggregate() == pytest.approx(float(kl.detach()), rel=1e-5)


def test_the_square_estimator_is_ours_too():
    rows = Rows()
    loss, _ = astor_loss(rows.output(), rows.batch(), config=actor(kl="mse"), tasks=TASKS)
    config = LossConfig(kl_estimator="k2", importance_cap=float("inf"))
    policy, kl = rows.ours(config)
    torch.testing.assert_close(gradients(loss, rows), gradients(policy + kl, rows))


def test_a_tasks_share_of_the_kl_loss_is_reported_even_where_it_has_no_rows():
    rows = Rows()
    rows.task_id = torch.zeros(4, dtype=torch.int64)
    _, metrics = astor_loss(rows.output(), rows.batch(), config=actor(), tasks=TASKS)
    assert metrics["task/io/kl_loss"].aggregate() == metrics["astor/kl_loss"].aggregate() > 0
    assert metrics["task/code/kl_loss"].aggregate() == 0


def test_a_completion_without_a_verdict_has_no_gradient():
    rows = Rows()
    loss, _ = astor_loss(rows.output(), rows.batch(), config=actor(), tasks=TASKS)
    parts = torch.autograd.grad(loss, rows.logprobs)
    assert [bool(part.any()) for part in parts] == [True, True, True, False]


def test_masked_infinities_stay_out_of_the_gradient():
    rows = Rows()
    rows.ref[3] = torch.full_like(rows.ref[3], -torch.inf)
    loss, _ = astor_loss(rows.output(), rows.batch(), config=actor(), tasks=TASKS)
    assert torch.isfinite(gradients(loss, rows)).all()


def test_a_lost_coefficient_is_an_error():
    rows = Rows()
    with pytest.raises(CapabilityError, match="no column 'kl_coef'"):
        astor_loss(rows.output(), rows.batch(**{KL_COEF: None}), config=actor())


def test_a_lost_reference_is_an_error_only_where_it_is_needed():
    rows = Rows()
    config = actor()
    object.__setattr__(config, "use_kl_loss", False)
    with pytest.raises(CapabilityError, match="ref_log_prob"):
        astor_loss(rows.output(), rows.batch(ref_log_prob=None), config=config)
    rows.kl_coef = torch.zeros(4)
    loss, metrics = astor_loss(rows.output(), rows.batch(ref_log_prob=None), config=config)
    assert torch.isfinite(loss)
    assert metrics["astor/kl_loss"].aggregate() == 0


def test_the_batch_is_left_as_it_was():
    rows = Rows()
    batch = rows.batch()
    astor_loss(rows.output(), batch, config=actor(), tasks=TASKS)
    assert tu.get_non_tensor_data(batch, "global_batch_size", None) == 64
