"""Every scheduler from a run file: three steps of the tiny model, and a receipt that says why."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from astor_rl.config import RunConfig, load_config
from astor_rl.engines.local.checkpoint import load_checkpoint, save_checkpoint
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.model import load_model, merged_named_tensors, render_prompt
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.engines.local.run import check_processes
from astor_rl.engines.local.sampling import make_sampler
from astor_rl.engines.local.trainer import LocalTrainer, StepRecord
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.errors import CapabilityError, ConfigError
from astor_rl.schedule.baselines.options import METHODS
from astor_rl.schedule.baselines.vcrl import Vcrl

Write = Callable[..., Path]
Start = Callable[..., subprocess.Popen[str]]

# Half the completions have no letter that is wanted at all: many groups are without variance.
BINARY = {"num_generations": 2, "prompts_per_step": 4, "max_completion_length": 3}


@contextmanager
def training(run: Path) -> Iterator[tuple[RunConfig, LocalTrainer]]:
    """The trainer of a run file, without folder and console."""
    config = load_config(run)
    loaded = load_model(config.model, dtype=torch.float32)
    tasks = prepare_tasks(
        config,
        sandbox=nullcontext(),  # type: ignore[arg-type] # these tasks run no code
        render=lambda messages: render_prompt(loaded.tokenizer, messages),
        base_dir=run.parent,
    )
    torch.manual_seed(config.seed)
    sampler = make_sampler(config, loaded, tasks, device=torch.device("cpu"), note=lambda _: None)
    sampler.update_weights(merged_named_tensors(loaded.model), revision=0)
    cpu = torch.device("cpu")
    policy = Policy(loaded, lora=config.lora, device=cpu, dtype=torch.float32)
    with RewardWorker({task.name: task.task for task in tasks}) as rewards:
        yield (
            config,
            LocalTrainer(
                config, tasks, policy, sampler=sampler, rewards=rewards, world=World(0, 1, cpu)
            ),
        )


def steps(trainer: LocalTrainer, count: int) -> list[StepRecord]:
    return [trainer.step() for _ in range(count)]


def timeless(record: StepRecord) -> dict[str, float]:
    return {name: value for name, value in record.metrics.items() if not name.startswith("time")}


def groups_of(record: StepRecord) -> int:
    return sum(int(record.metrics.get(f"task/{t}/batch/groups", 0)) for t in ("first", "second"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_explains_itself_and_resumes(
    tiny_run: Write, tmp_path: Path, method: str
) -> None:
    run = tiny_run(
        **BINARY,
        max_steps=4,
        schedule={"method": method},
        baseline={"task": "second", "max_rounds": 2, "measure_steps": 1},
    )
    with training(run) as (config, trainer):
        records = steps(trainer, 3)
        saved = save_checkpoint(tmp_path / "checkpoints", 3, trainer.state_dict(), keep=1)
        records += steps(trainer, 1)
    for record in records:
        receipt = record.plan.receipt
        assert sum(task.prompts for task in receipt.tasks.values()) == 4
        assert sum(task.share for task in receipt.tasks.values()) == pytest.approx(1)
        assert any(note.startswith(f"{method}: ") for note in receipt.notes) == (method != "astor")
        betas = {task.beta for task in receipt.tasks.values()}
        assert betas == {config.beta} or method == "astor"
        assert (groups_of(record) > 4) == any("refills of" in note for note in receipt.notes)
    if method == "single":
        assert {item.task for record in records for item in record.plan.items} == {"second"}
    with training(run) as (_, again):
        again.load_state_dict(load_checkpoint(saved))
        resumed = again.step()
    assert resumed.plan == records[3].plan
    assert timeless(resumed) == timeless(records[3])


def test_refills_train_on_groups_with_variance_and_resume_exactly(tiny_run: Write) -> None:
    run = tiny_run(max_steps=4, prompts_per_step=4, schedule={"method": "dapo"})
    with training(run) as (_, trainer):
        records = steps(trainer, 2)
        state = copy.deepcopy(trainer.state_dict())  # its tensors are live
        records += steps(trainer, 2)
    assert any(groups_of(record) > 4 for record in records)
    for record in records:
        nonzero = sum(record.metrics[f"task/{t}/nonzero_groups"] for t in ("first", "second"))
        assert nonzero == 4
    with training(run) as (_, resumed):
        resumed.load_state_dict(state)
        for before, after in zip(records[2:], steps(resumed, 2), strict=True):
            assert after.plan == before.plan
            assert timeless(after) == timeless(before)
            assert after.samples == before.samples


@pytest.mark.parametrize("options", [{}, {"task_norm": "task", "num_iterations": 2}])
@pytest.mark.parametrize("calibrate", [False, True])
def test_groups_that_are_all_refused_train_nothing_and_leave_a_note(
    tiny_run: Write, calibrate: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every group is refused, those whose outcomes differ too; the bank gives nothing."""
    monkeypatch.setattr(Vcrl, "keeps", lambda *_: False)
    baseline = {"vcrl_replays": 0, "calibrate": calibrate}
    run = tiny_run(schedule={"method": "vcrl"}, baseline=baseline, **options)
    with training(run) as (_, trainer):
        before = copy.deepcopy(trainer.state_dict()["updater"]["weights"])
        records = steps(trainer, 2)
        after = trainer.state_dict()["updater"]["weights"]
    assert any(record.metrics["task/first/batch/mixed"] for record in records)
    assert any(record.plan.probe for record in records) == calibrate
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    for record in records:
        assert record.metrics["grad_norm"] == 0
        assert "no refill for refused groups; the update has 0 of 6 groups" in (
            record.plan.receipt.notes
        )


def test_groups_are_replaced_on_one_process_only(tiny_run: Write) -> None:
    config = load_config(tiny_run(schedule={"method": "greso"}))
    check_processes(config, 1)
    with pytest.raises(CapabilityError, match="'greso', which replaces groups within a step"):
        check_processes(config, 2)
    check_processes(load_config(tiny_run(schedule={"method": "mopps"})), 2)


@pytest.mark.slow
def test_a_run_on_two_processes_is_refused(tiny_run: Write, astor: Start) -> None:
    # Without steps, so that a run that isn't refused ends instead of waiting for its other half.
    run = tiny_run(num_processes=2, max_steps=0, schedule={"method": "greso"}, eval={"examples": 0})
    process = astor("train", str(run), "--plain")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "'greso', which replaces groups within a step" in said
    assert "Reinforcing" not in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": {"method": "best"}}, "schedule.method"),
        ({"schedule": {"method": "single"}}, "baseline.task is ''; with schedule.method"),
        (
            {"schedule": {"method": "curriculum"}, "baseline": {"order": ["first"]}},
            "baseline.order is ['first']; it must name each of first, second once",
        ),
        (
            {"schedule": {"method": "tac"}, "synergy": {"enabled": False}},
            "synergy.enabled is false; schedule.method = 'tac' needs it",
        ),
        ({"baseline": {"sec_rat": 1}}, "did you mean 'sec_rate'"),
        ({"baseline": {"sec_rate": 2}}, "baseline.sec_rate"),
    ],
)
def test_a_run_file_that_does_not_fit_is_refused_at_once(
    tiny_run: Write, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(tiny_run(**changes))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_horizon_is_the_run(tiny_run: Write) -> None:
    run = tiny_run(max_steps=7, schedule={"method": "e2h"})
    assert load_config(run).coordinator_options().baseline.horizon == 7
    longer = load_config(run, ["baseline.horizon=50"])
    assert longer.coordinator_options().baseline.horizon == 50
