from __future__ import annotations

from typing import Any

import pytest
import torch

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.verl.figures import ledger_before
from astor_rl.engines.verl.groups import NO_GROUP, Groups, Verdict
from astor_rl.errors import RewardError
from astor_rl.plan import PlanItem
from astor_rl.policy.advantages import group_advantages

TASKS = ("io", "code")


def run(**changes: Any) -> RunConfig:
    tasks = [{"name": n, "task": "io_prediction", "source": "jsonl:x"} for n in TASKS]
    return parse_config({"model": "m", "engine": "verl", "tasks": tasks, **changes})


def item(slot: int, task: str, *, half: int = 0, size: int = 3, beta: float = 0.1) -> PlanItem:
    return PlanItem(slot, task, f"k{slot}", size, 8, beta, 1.0, half)


def verdict(outcome: float, format: float = 1.0) -> Verdict:
    return Verdict(outcome, format, invalid=False)


BAD = Verdict(0.0, 0.0, invalid=True)
ITEMS = (
    item(0, "io"),
    item(1, "io", half=1, beta=0.2),
    item(2, "code", beta=0.4),
    item(3, "code", half=1, beta=0.4),
)
# verl's order isn't the plan's; row 4 is synthetic, a rollout of slot 3 was lost.
SLOTS = [2, 0, 1, 0, NO_GROUP, 1, 0, 1, 2, 2, 3, 3]
VERDICTS = [
    verdict(0.5),
    verdict(1.0),
    BAD,
    verdict(0.0, 0.0),
    None,
    verdict(1.0),
    verdict(1.0),
    verdict(0.0),
    verdict(0.5),
    verdict(0.5),
    verdict(0.0),
    verdict(1.0),
]
TOKENS = [4, 2, 3, 2, 1, 2, 2, 5, 4, 4, 1, 1]


def groups(**changes: Any) -> Groups:
    return Groups(ITEMS, SLOTS, VERDICTS, TOKENS, run(**changes))


def test_outcomes_leave_out_what_was_not_judged():
    found = {outcome.slot: outcome for outcome in groups().outcomes()}
    assert sorted(found[0].outcomes) == [0.0, 1.0, 1.0]
    assert (found[1].outcomes, found[1].invalid, found[1].tokens) == ((1.0, 0.0), 1, 10)
    assert (found[3].outcomes, found[3].invalid) == ((0.0, 1.0), 1)
    assert groups().lost == 1


@pytest.mark.parametrize("kind", ["decoupled", "shaped"])
def test_advantages_are_the_groups_own_whatever_the_order_of_rows(kind: str):
    found = groups(advantage=kind).advantages
    expected = group_advantages(
        torch.tensor([[1.0, 0.0, 1.0]]),
        torch.tensor([[1.0, 0.0, 1.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        task_ids=[0],
        kind=kind,
    )
    assert found[[1, 3, 6]].tolist() == expected.advantages_NG[0].tolist()
    assert found[2] == found[4] == 0  # unjudged, synthetic
    assert found[[0, 8, 9]].tolist() == [0, 0, 0]  # equal outcomes


def test_columns_of_rows():
    found = groups()
    assert found.task_id.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert found.kl_coef.tolist() == pytest.approx(
        [0.4, 0.1, 0.2, 0.1, 0.0, 0.2, 0.1, 0.2, 0.4, 0.4, 0.4, 0.4]
    )
    assert found.valid.tolist() == [i not in (2, 4) for i in range(12)]
    assert found.nonzero_groups() == {"io": 2, "code": 1}


def test_halves_are_of_tasks_that_have_both():
    halves = groups().halves()
    assert halves is not None
    # code's first half has equal outcomes, so code has no first half.
    assert halves.tasks == ("io",)
    assert halves.row_of.tolist() == [-1, 0, -1, 0, -1, 1, 0, 1, -1, -1, -1, -1]
    assert halves.samples == (3, 2)
    assert halves.groups == (1, 1)


def test_without_a_task_with_both_halves_nothing_is_measured():
    even = [v and (v if v.invalid else verdict(0.5)) for v in VERDICTS]
    assert Groups(ITEMS, SLOTS, even, TOKENS, run()).halves() is None


def test_metrics_by_task():
    found = groups().metrics()
    assert found["tokens/generated"] == sum(TOKENS) - 1  # the synthetic row's doesn't count
    assert found["task/io/reward/mean"] == pytest.approx(3 / 5)
    assert found["task/io/reward/format"] == pytest.approx(4 / 5)
    assert found["task/io/batch/groups"] == 2
    assert found["task/code/batch/mixed"] == 1
    assert found["task/io/rollouts/invalid"] == 1
    assert found["task/code/rollouts/length"] == pytest.approx((4 + 4 + 4 + 1 + 1) / 5)


def test_an_error_of_a_reward_worker_reaches_the_driver():
    with pytest.raises(RewardError, match="task 'io'.* boom"):
        Verdict.read({"error": "task 'io', example x: boom"})
    info = {"outcome": 0.5, "format": 1, "invalid": 0, "error": "", "reason": ""}
    assert Verdict.read(info) == verdict(0.5)


def test_a_step_that_nobody_could_judge_is_one_line():
    groups().require_verdicts()
    failed = Verdict(0.0, 0.0, invalid=True, reason="the sandbox ran out of memory")
    verdicts = [v and failed for v in VERDICTS]
    with pytest.raises(RewardError, match=r"none of the step's 11 rollouts .* out of memory"):
        Groups(ITEMS, SLOTS, verdicts, TOKENS, run()).require_verdicts()


def test_the_ledger_measures_what_the_update_will_do():
    found = groups(loss_type="dapo")
    width = max(TOKENS)
    mask = torch.tensor([[t < n for t in range(width)] for n in TOKENS]) & found.valid[:, None]
    old = torch.full((len(TOKENS), width), -1.0)
    ledger = ledger_before(
        found,
        run(),
        mask=mask,
        old_logprobs=old,
        ref_logprobs=old - found.task_id[:, None] * 0.5,
        sampler_logprobs=old,
    )
    assert ledger.loss_tokens(TASKS) == {"io": 2 + 2 + 2 + 2 + 5, "code": 14}
    assert ledger.kl(TASKS)["io"] == pytest.approx(0)
    assert ledger.kl(TASKS)["code"] == pytest.approx(0.5 + 2.718281828**-0.5 - 1, rel=1e-5)
    assert ledger.kl_loss_share(TASKS) == pytest.approx({"io": 0, "code": 1})
    shares = ledger.policy_loss_share(TASKS)
    weight = {
        task: sum(
            abs(float(a)) * n * (i == number)
            for a, n, i in zip(found.advantages, TOKENS, found.task_id, strict=True)
        )
        for number, task in enumerate(TASKS)
    }
    assert shares["io"] == pytest.approx(float(weight["io"] / sum(weight.values())), rel=1e-5)
