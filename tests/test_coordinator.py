"""The coordinator's step: plans, observations, receipts, metrics, errors."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astor_rl.calibrate.kl import CalibrateOptions
from astor_rl.coordinator import MAX_IN_FLIGHT, Coordinator, CoordinatorOptions
from astor_rl.errors import ConfigError, PlanError
from astor_rl.plan import GradientProbe, GroupOutcome, StepPlan, TaskSpec, UpdateStats
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.utility.potential import PotentialOptions
from astor_rl.utility.synergy import SynergyOptions
from astor_rl.utility.task_utility import UtilityOptions

RATES = {"code": 0.5, "commit": 0.9, "io": 0.1, "tests": 0.02}


def specs(names: str = "code commit io tests", size: int = 60, **fields: float) -> list[TaskSpec]:
    return [
        replace(TaskSpec(name, [f"{name}-{i}" for i in range(size)]), **fields)  # type: ignore[arg-type]
        for name in names.split()
    ]


def rewards(plan: StepPlan, *, seed: int = 0) -> list[GroupOutcome]:
    """Outcomes that depend on the plan alone, so that equal runs see equal rewards."""
    rng = np.random.default_rng([seed, plan.id])
    return [
        GroupOutcome(
            item.slot,
            tuple((rng.random(item.num_generations) < RATES[item.task]).astype(float).tolist()),
            tokens=100 + item.slot,
        )
        for item in plan.items
    ]


def stats(plan: StepPlan, tasks: tuple[str, ...]) -> UpdateStats:
    rng = np.random.default_rng([7, plan.id])
    probe = None
    if plan.probe and len(tasks) > 1:
        halves = rng.normal(size=(2 * len(tasks), 400)) + 1.5
        probe = GradientProbe(tasks, halves @ halves.T, (2,) * (2 * len(tasks)))
    return UpdateStats(kl=dict.fromkeys(tasks, 0.01 * (1 + plan.id % 3)), probe=probe)


def step(each: Coordinator, revision: int, **options: dict[str, int]) -> StepPlan:
    plan = each.plan(revision=revision, **options)
    each.observe_groups(plan.id, rewards(plan))
    each.observe_update(plan.id, revision + 1, stats(plan, tuple(each.snapshot.tasks)))
    return plan


def run(each: Coordinator, steps: int, start: int = 0) -> list[StepPlan]:
    return [step(each, revision) for revision in range(start, start + steps)]


def coordinator(
    seed: int = 0, names: str = "code commit io tests", **options: object
) -> Coordinator:
    return Coordinator(
        specs(names),
        prompts_per_step=16,
        options=CoordinatorOptions(**options),  # type: ignore[arg-type]
        seed=seed,
    )


def test_a_plan_has_its_batch_in_slots_by_task() -> None:
    each = Coordinator(
        [
            TaskSpec("b", ["b0", "b1", "b2"], beta=0.01, num_generations=4, max_tokens=99),
            TaskSpec("a", ["a0", "a1", "a2"], beta=0.02),
        ],
        prompts_per_step=4,
    )
    plan = each.plan(revision=7)
    assert (plan.id, plan.revision, plan.probe, plan.receipt.phase) == (0, 7, True, "warmup")
    assert [item.slot for item in plan.items] == [0, 1, 2, 3]
    assert [item.task for item in plan.items] == ["a", "a", "b", "b"]
    assert len({item.key for item in plan.items}) == 4
    assert all(item.key.startswith(item.task) for item in plan.items)
    last = plan.items[-1]
    assert (last.num_generations, last.max_tokens, last.beta) == (4, 99, 0.01)
    assert each.in_flight == {0: plan}


def test_same_seed_same_plans_and_other_seed_other_plans() -> None:
    first, second, other = run(coordinator(), 25), run(coordinator(), 25), run(coordinator(1), 25)
    assert first == second
    assert [p.items for p in first] != [p.items for p in other]


def test_order_of_tasks_and_arrival_of_groups_leave_no_trace() -> None:
    straight = coordinator()
    shuffled = Coordinator(specs()[::-1], prompts_per_step=16)
    rng = np.random.default_rng(0)
    for revision in range(25):
        plan, same = straight.plan(revision=revision), shuffled.plan(revision=revision)
        assert plan == same
        groups = rewards(plan)
        straight.observe_groups(plan.id, groups)
        straight.observe_update(plan.id, revision + 1, stats(plan, tuple(RATES)))
        shuffled.observe_update(plan.id, revision + 1, stats(plan, tuple(RATES)))
        for place in rng.permutation(16):
            shuffled.observe_groups(plan.id, [groups[place]])
    assert straight.metrics() == shuffled.metrics()


def test_reports_are_idempotent_by_slot_and_update() -> None:
    once, twice = coordinator(), coordinator()
    for revision in range(15):
        plan = once.plan(revision=revision)
        assert twice.plan(revision=revision) == plan
        groups, update = rewards(plan), stats(plan, tuple(RATES))
        once.observe_groups(plan.id, groups)
        once.observe_update(plan.id, revision, update)
        twice.observe_groups(plan.id, groups[:9])
        twice.observe_update(plan.id, revision, update)
        twice.observe_update(plan.id, revision, UpdateStats(kl={"io": 9.0}))
        wrong = [replace(group, outcomes=(0.5,)) for group in groups[:9]]
        twice.observe_groups(plan.id, wrong + groups[9:])
    assert once.metrics() == twice.metrics()
    assert str(once.state_dict()) == str(twice.state_dict())


def test_a_plan_leaves_the_table_when_all_is_observed() -> None:
    each = coordinator()
    plan = each.plan(revision=0)
    groups = rewards(plan)
    each.observe_groups(plan.id, groups[:-1])
    each.observe_update(plan.id, 1, UpdateStats())
    assert each.unobserved(plan.id) == (15,)
    each.observe_groups(plan.id, groups[-1:])
    assert not each.in_flight
    with pytest.raises(PlanError, match="plan 0 is not in flight: finished or forgotten"):
        each.observe_groups(plan.id, groups)


def test_observations_across_plans_may_come_in_any_order() -> None:
    """Three plans out; the last finishes first. Each is credited to its own revision."""
    each = coordinator()
    plans = [each.plan(revision=revision) for revision in range(3)]
    assert len({item.key for plan in plans for item in plan.items}) == 48
    for plan in reversed(plans):
        each.observe_groups(plan.id, rewards(plan))
        each.observe_update(plan.id, 3, stats(plan, tuple(RATES)))
    assert not each.in_flight
    assert each.plan(revision=3).id == 3
    assert all(each.metrics()[f"task/{name}/groups"] == 12 for name in RATES)


def test_prompts_in_flight_are_unavailable_until_forgotten() -> None:
    each = Coordinator(specs("io", size=20), prompts_per_step=16)
    plan = each.plan(revision=0)
    with pytest.raises(
        PlanError,
        match="16 prompts are wanted and 4 are available; plans in flight hold 16: finish",
    ):
        each.plan(revision=0)
    refill = each.plan(revision=0, need={"io": 4})
    assert not {item.key for item in plan.items} & {item.key for item in refill.items}
    each.observe_groups(plan.id, rewards(plan)[:3])
    each.forget(plan.id)
    each.plan(revision=1)
    assert each.metrics()["task/io/groups"] == 3  # what was observed of it counts
    with pytest.raises(PlanError, match="plan 0 is not in flight"):
        each.forget(plan.id)


def test_too_many_open_plans_are_an_error_that_names_the_oldest() -> None:
    each = Coordinator(specs("io", size=1000), prompts_per_step=1)
    for _ in range(MAX_IN_FLIGHT):
        each.plan(revision=0)
    with pytest.raises(PlanError, match="256 plans are in flight, the oldest is 0"):
        each.plan(revision=0)


def test_need_gives_exact_counts_at_the_steps_own_coefficients() -> None:
    each = coordinator()
    run(each, 15)
    plan = each.plan(revision=15)
    each.observe_groups(plan.id, rewards(plan))
    carry = {n: each.metrics()[f"task/{n}/rounding_carry"] for n in RATES}
    refill = each.plan(revision=15, need={"tests": 3, "io": 2})
    assert Counter(item.task for item in refill.items) == {"tests": 3, "io": 2}
    assert refill.receipt.snapshot_revision == plan.receipt.snapshot_revision == 15
    for name in RATES:
        assert refill.receipt.tasks[name].beta == plan.receipt.tasks[name].beta
        assert each.metrics()[f"task/{name}/rounding_carry"] == carry[name]
    assert refill.receipt.tasks["tests"].share == 0.6
    assert refill.probe == plan.probe
    assert "given by the caller" in refill.receipt.notes[0]
    assert not {item.key for item in plan.items} & {item.key for item in refill.items}


def test_need_beyond_supply_draws_nothing() -> None:
    each = coordinator()
    before = str(each.state_dict()["rng"])
    with pytest.raises(PlanError, match="task io: 61 prompts are needed and 60 of 60"):
        each.plan(revision=0, need={"code": 2, "io": 61})
    assert str(each.state_dict()["rng"]) == before
    assert each.metrics()["task/code/prompts_free"] == 60


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["additive", "multiplicative"]),
    st.booleans(),
    st.sampled_from(["range", "task_rms"]),
    st.sampled_from(["multiplier", "target"]),
)
def test_receipts_add_up_exactly(
    seed: int, form: str, cost_aware: bool, scale: str, mode: str
) -> None:
    each = Coordinator(
        [replace(spec, ratio=1 + k) for k, spec in enumerate(specs())],
        prompts_per_step=13,
        options=CoordinatorOptions(
            utility=UtilityOptions(form=form),  # type: ignore[arg-type]
            schedule=ScheduleOptions(warmup_steps=3, cost_aware=cost_aware),
            potential=PotentialOptions(scale=scale),  # type: ignore[arg-type]
            calibrate=CalibrateOptions(mode=mode),  # type: ignore[arg-type]
        ),
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    for revision in range(8):
        available = {"code": int(rng.integers(0, 6)), "io": int(rng.integers(0, 6))}
        receipt = step(each, revision, available=available).receipt
        tasks = receipt.tasks.values()
        for task in tasks:
            parts = (task.potential, task.synergy, task.cost, task.floor, task.rounding)
            total = task.base + sum(parts) + task.availability
            assert total == pytest.approx(task.share, abs=1e-12)
            assert task.share == task.prompts / 13
            assert task.beta == pytest.approx(task.beta_base * task.beta_multiplier)
        assert sum(task.prompts for task in tasks) == 13
        for part in ("potential", "synergy", "cost", "floor", "rounding", "availability"):
            assert sum(getattr(task, part) for task in tasks) == pytest.approx(0, abs=1e-12)
        assert (max(task.cost for task in tasks) > 0) == (cost_aware and revision >= 3)
    json.dumps(receipt.as_dict(), allow_nan=False)


def test_equal_tasks_get_the_base_mixture_and_base_betas_for_ever() -> None:
    each = coordinator(schedule=ScheduleOptions(warmup_steps=0))
    for revision in range(12):
        plan = each.plan(revision=revision)
        each.observe_groups(
            plan.id, [GroupOutcome(item.slot, (0.0, 1.0) * 4) for item in plan.items]
        )
        each.observe_update(plan.id, revision + 1, UpdateStats())
        assert Counter(item.task for item in plan.items) == dict.fromkeys(RATES, 4)
        for task in plan.receipt.tasks.values():
            assert task.beta == pytest.approx(0.001)
            assert task.z == pytest.approx(0, abs=1e-6)


def test_learnable_tasks_get_more_and_are_held_less() -> None:
    each = coordinator(potential=PotentialOptions(scale="range"))
    receipt = run(each, 30)[-1].receipt
    assert receipt.phase == "scheduled"
    tasks = receipt.tasks
    assert tasks["code"].share > tasks["commit"].share
    assert tasks["code"].potential > 0 > tasks["tests"].potential
    assert tasks["tests"].floor > 0 > tasks["code"].floor
    assert tasks["code"].beta < 0.001 < tasks["tests"].beta
    quota = {n: each.metrics()[f"task/{n}/quota"] for n in RATES}
    mean = sum(quota[n] * math.log(tasks[n].beta_multiplier) for n in RATES)
    assert mean == pytest.approx(0, abs=1e-9)
    assert min(quota.values()) >= 0.2 * 0.25


def test_both_modules_read_one_snapshot() -> None:
    each = coordinator()
    run(each, 15)
    plan = each.plan(revision=15)
    snapshot = each.snapshot
    assert snapshot.revision == plan.receipt.snapshot_revision == 15
    for name, task in plan.receipt.tasks.items():
        assert task.utility == snapshot.tasks[name].utility
    each.observe_groups(plan.id, rewards(plan))
    again = each.plan(revision=15, need={"io": 1})
    assert each.snapshot is snapshot
    assert again.receipt.tasks["io"].utility == plan.receipt.tasks["io"].utility
    assert each.plan(revision=16).receipt.snapshot_revision == 16
    assert each.snapshot is not snapshot


def test_a_plan_knows_the_groups_of_unfinished_plans() -> None:
    each = coordinator()
    plan = each.plan(revision=0)
    each.observe_groups(plan.id, rewards(plan)[:5])
    each.plan(revision=1)
    assert sum(task.groups for task in each.snapshot.tasks.values()) == 5
    each.observe_groups(plan.id, rewards(plan)[5:])
    each.observe_update(plan.id, 2, UpdateStats())
    each.plan(revision=2)
    assert sum(task.groups for task in each.snapshot.tasks.values()) == 16


def test_single_task_gets_everything_at_its_base_beta() -> None:
    each = Coordinator(specs("io"), prompts_per_step=8)
    for plan in run(each, 15):
        assert len(plan.items) == 8
        assert not plan.probe
        assert plan.receipt.tasks["io"].beta_multiplier == 1.0
        assert plan.receipt.tasks["io"].utility == pytest.approx(
            each.snapshot.tasks["io"].potential, abs=1
        )
    assert each.metrics()["task/io/synergy"] == 0.0


def test_two_tasks_synergy_cancels_in_the_quotas() -> None:
    each = Coordinator(specs("code io"), prompts_per_step=16)
    plan = run(each, 30)[-1]
    assert each.snapshot.tasks["code"].synergy_used == each.snapshot.tasks["io"].synergy_used > 0
    for task in plan.receipt.tasks.values():
        assert task.synergy == pytest.approx(0, abs=1e-12)


def test_unresolved_synergy_is_unknown_not_zero_or_nan() -> None:
    each = coordinator()
    plan = step(each, 0)
    assert "task/io/synergy" not in each.metrics()
    assert "task/io/cosine/code" not in each.metrics()
    assert each.snapshot.tasks["io"].synergy is None
    assert "synergy unknown for 6 pairs: code~commit" in plan.receipt.notes[-1]
    run(each, 40, start=1)
    assert each.metrics()["task/io/synergy"] > 0
    assert each.metrics()["task/io/synergy_age"] == 8  # snapshot at 40, newest probe of 32
    assert not any("synergy" in note for note in each.plan(revision=41).receipt.notes)
    assert all(math.isfinite(value) for value in each.metrics().values())


def test_probes_come_every_so_many_revisions() -> None:
    every = coordinator(synergy=SynergyOptions(every=3))
    assert [plan.probe for plan in run(every, 7)] == [True, False, False] * 2 + [True]
    off = coordinator(synergy=SynergyOptions(enabled=False))
    assert not any(plan.probe for plan in run(off, 7))
    assert not any("synergy" in note for note in off.plan(revision=9).receipt.notes)


def test_halves_are_even_random_splits() -> None:
    each = Coordinator(specs("code io", size=400), prompts_per_step=10)
    seen = Counter()
    odd_to_second = 0
    for revision in range(200):
        plan = each.plan(revision=revision)
        for name in ("code", "io"):
            halves = [item.half for item in plan.items if item.task == name]
            assert len(halves) == 5
            assert sum(halves) in (2, 3)
            odd_to_second += sum(halves) == 3
            seen[tuple(halves)] += 1
        each.forget(plan.id)
    assert len(seen) == 20  # every split of 5 into 2 and 3
    assert 160 < odd_to_second < 240


def test_ablations_switch_off_what_they_name() -> None:
    plain = run(coordinator(schedule=ScheduleOptions(task_scheduling=False)), 20)[-1]
    assert {task.share for task in plain.receipt.tasks.values()} == {0.25}
    assert len({task.beta for task in plain.receipt.tasks.values()}) > 1
    flat = run(coordinator(calibrate=CalibrateOptions(enabled=False)), 20)[-1]
    assert {task.beta for task in flat.receipt.tasks.values()} == {0.001}
    uniform = coordinator(schedule=ScheduleOptions(prompt_scheduling=False))
    chances = {(i.task, round(i.propensity, 9)) for i in uniform.plan(revision=0).items}
    assert len(chances) == 4


def test_repeats_are_off_unless_allowed() -> None:
    small = specs("io", size=3)
    with pytest.raises(PlanError, match="8 prompts are wanted and 3 are available"):
        Coordinator(small, prompts_per_step=8).plan(revision=0)
    options = CoordinatorOptions(schedule=ScheduleOptions(allow_repeats=True))
    each = Coordinator(small, prompts_per_step=8, options=options)
    for plan in run(each, 5):
        counts = Counter(item.key for item in plan.items)
        assert sorted(counts.values()) == [2, 3, 3]


def test_adding_a_task_mid_run() -> None:
    each = coordinator(names="code io")
    run(each, 20)
    before = each.snapshot.tasks["code"]
    each.add_task(specs("commit")[0])
    plan = each.plan(revision=20)
    tasks = each.snapshot.tasks
    assert list(tasks) == ["code", "commit", "io"]
    assert tasks["code"].groups > before.groups
    assert tasks["commit"].groups == 0
    # Unmeasured, it counts as the mean of the others: it is neither favoured nor punished.
    assert tasks["commit"].potential == pytest.approx(
        (tasks["code"].potential + tasks["io"].potential) / 2
    )
    assert 0 < plan.receipt.tasks["commit"].prompts < 16
    assert "task commit was never measured" in " ".join(plan.receipt.notes)
    each.observe_groups(plan.id, rewards(plan))
    each.observe_update(plan.id, 21, UpdateStats())
    run(each, 30, start=21)
    assert each.snapshot.tasks["commit"].groups > 8
    assert each.snapshot.tasks["commit"].synergy is not None
    with pytest.raises(ConfigError, match="two tasks are named 'io'"):
        each.add_task(specs("io")[0])


def test_metrics_tell_of_the_whole_batch_after_a_refill() -> None:
    each = coordinator()
    plan = each.plan(revision=0)
    each.observe_groups(plan.id, rewards(plan))
    each.plan(revision=0, need={"io": 2})
    metrics = each.metrics()
    for name, task in plan.receipt.tasks.items():
        assert metrics[f"task/{name}/share"] == task.share
        assert metrics[f"task/{name}/prompts"] == task.prompts
    # A loop that always names its numbers is told of those.
    each.plan(revision=1, need={"io": 3, "code": 1})
    assert each.metrics()["task/io/share"] == 0.75


def test_measured_kl_drives_the_target_controller() -> None:
    each = coordinator(calibrate=CalibrateOptions(mode="target", target=0.02))
    for revision in range(10):
        plan = each.plan(revision=revision)
        each.observe_groups(plan.id, rewards(plan))
        each.observe_update(
            plan.id, revision + 1, UpdateStats(kl={"io": 0.5, "code": 0.0, "tests": 0.02})
        )
    betas = {name: task.beta for name, task in each.plan(revision=10).receipt.tasks.items()}
    assert betas["io"] == pytest.approx(0.001 * 1.04**10)
    assert betas["code"] == pytest.approx(0.001 * 0.96**10)
    assert betas["commit"] == 0.001  # no measurement, no step


def test_the_ledger_shows_what_the_update_measured() -> None:
    each = coordinator()
    plan = each.plan(revision=0)
    each.observe_update(
        plan.id,
        1,
        UpdateStats(
            kl={"io": 0.2},
            loss_tokens={"io": 123},
            policy_loss_share={"io": 0.4},
            kl_loss_share={"io": 0.1},
            nonzero_groups={"io": 2},
        ),
    )
    metrics = each.metrics()
    assert metrics["task/io/kl"] == 0.2
    assert metrics["task/io/loss_tokens"] == 123
    assert metrics["task/io/policy_loss_share"] == 0.4
    assert metrics["task/io/kl_loss_share"] == 0.1
    assert metrics["task/io/nonzero_groups"] == 2
    assert metrics["task/io/prompts"] == 4
    assert "task/code/kl" not in metrics
    assert metrics["plans_in_flight"] == 1


def test_invalid_rollouts_shrink_the_group_and_are_never_zeros() -> None:
    first, second = coordinator(), coordinator()
    for each, invalid in ((first, 0), (second, 5)):
        plan = each.plan(revision=0)
        each.observe_groups(
            plan.id, [GroupOutcome(i.slot, (0.0, 1.0, 1.0), invalid=invalid) for i in plan.items]
        )
        each.observe_update(plan.id, 1, UpdateStats())
    assert first.plan(revision=1) == second.plan(revision=1)
    assert first.metrics() == second.metrics()
    assert first.metrics()["task/io/potential"] == pytest.approx((1 / 3) / 0.25)


def test_a_task_without_prompts_has_no_part_in_the_others_coefficients() -> None:
    options = CoordinatorOptions(
        schedule=ScheduleOptions(warmup_steps=2, min_groups=1),
        synergy=SynergyOptions(enabled=False),
    )
    tasks = [*specs("code tests"), TaskSpec("later", [])]
    each = Coordinator(tasks, prompts_per_step=8, seed=0, options=options)
    for revision in range(12):
        plan = each.plan(revision=revision)
        each.observe_groups(plan.id, rewards(plan))
        each.observe_update(plan.id, revision + 1, UpdateStats(kl={"code": 0.01, "tests": 0.01}))
    receipt = each.plan(revision=12).receipt
    factors = {name: task.beta_multiplier for name, task in receipt.tasks.items()}
    assert factors["later"] == 1
    assert factors["tests"] > 1.5 > 1 > factors["code"]
    metrics = each.metrics()
    quota = {name: metrics[f"task/{name}/quota"] for name in ("code", "tests")}
    mean = sum(share * math.log(factors[name]) for name, share in quota.items())
    assert mean == pytest.approx(0, abs=1e-9)  # redistributed, not strengthened
