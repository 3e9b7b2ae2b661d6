"""docs/metrics.md and what other pages say of a run's files and of the sandbox."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from benchmarks.attacks import catalogue

import astor_rl
from astor_rl.config import parse_config
from astor_rl.engines.local import trainer, update
from astor_rl.engines.local.distributed import World
from astor_rl.engines.local.evaluation import _sample
from astor_rl.evaluate.heldout import HeldOut, Judged, TaskResult
from astor_rl.plan import Receipt, TaskReceipt, UpdateStats
from astor_rl.policy.ledger import Ledger
from astor_rl.report import run_folder
from astor_rl.sandbox.api import Limits
from astor_rl.sandbox.pool import RECYCLE_AFTER
from astor_rl.sandbox.protections import GUARANTEES
from astor_rl.types import Example, Invalid, Message, Rollout, Score

RUN = {
    "model": "m",
    "tasks": [{"name": "one", "task": "io_prediction", "source": "jsonl:x.jsonl"}],
}
MESSAGE: Message = {"role": "user", "content": "?"}
ROLLOUT = Rollout("x", (1,), (2,), (0.0,), (1,), 0, "stop", 0, (MESSAGE,))


def string_keys(function: Callable[..., object], variable: str) -> set[str]:
    """The literal keys of the dict that a function assigns to a variable."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == variable:
            assert isinstance(node.value, ast.Dict)
            return {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
    raise AssertionError(f"{function} assigns no {variable}")


@pytest.fixture(scope="module")
def record(manual) -> Any:
    """A step's record, by the trainer's own code from a hand-made step of the page's loop."""
    plan, names = manual.loop["plan"], sorted(manual.loop["chance"])
    world = World(0, 1, torch.device("cpu"))
    group = update.Group(plan.items[0], (ROLLOUT,), (Score(1.0, 1.0),))
    tokens_T = torch.ones(len(names))
    ledger = Ledger.measure(
        mask_T=tokens_T.bool(),
        task_T=torch.arange(len(names)),
        tasks=len(names),
        policy_T=tokens_T,
        kl_loss_T=tokens_T,
        kl_T=tokens_T,
        clipped_T=tokens_T,
        entropy_T=tokens_T,
    )
    measured = {**ledger.metrics(names), **update._Gap().metrics(world)}
    measured |= dict.fromkeys(string_keys(update.Updater.update, "metrics"), 0.0)
    laps = re.findall(r'clock\.lap\("(\w+)"\)', inspect.getsource(trainer.LocalTrainer))
    one = object.__new__(trainer.LocalTrainer)
    vars(one).update(
        _world=world,
        _config=parse_config(RUN),
        _examples={(group.item.task, group.item.key): Example("k", {}, "here", "u")},
        steps_done=1,
        tokens_sampled=0,
    )
    return one._record(
        plan,
        [group],
        update.UpdateResult(UpdateStats(), measured),
        manual.loop["coordinator"].metrics(),
        SimpleNamespace(seconds=dict.fromkeys(laps, 1.0)),  # type: ignore[arg-type]
    )


def listed(manual: Any, heading: str, column: str) -> set[str]:
    return {manual.code(r[column]) for r in manual.table("metrics", heading) if column in r}


def test_every_metric_is_there_and_no_other(manual, record):
    names = "|".join(manual.loop["chance"])
    produced = {re.sub(rf"^task/({names})/", "", name) for name in record.metrics}
    produced = {re.sub(rf"^cosine/({names})$", "cosine/<other>", name) for name in produced}
    produced |= {field.name for field in dataclasses.fields(UpdateStats)} - {"probe"}
    assert 'metrics["time/probe"]' in inspect.getsource(update.Updater.update)
    assert listed(manual, "metrics.jsonl", "name") == produced | {"step", "time/probe"}


def test_an_unknown_synergy_is_absent(manual):
    metrics = manual.loop["coordinator"].metrics()
    assert "task/code/synergy" in metrics
    assert "task/tests/synergy" not in metrics
    assert metrics["task/tests/synergy_used"] == 0


def test_receipts(manual):
    names = {field.name for field in dataclasses.fields(Receipt)}
    assert listed(manual, "receipts.jsonl", "field") == names | {"step", "plan"}
    names = {field.name for field in dataclasses.fields(TaskReceipt)}
    assert listed(manual, "receipts.jsonl", "field of a task") == names


def test_evaluations(manual):
    names = {field.name for field in dataclasses.fields(TaskResult)}
    assert listed(manual, "eval/NAME.json", "field of a task") == names


def test_samples(manual, record):
    item = HeldOut(0, "t", Example("k", {}, "here", "u"), (MESSAGE,), (1,), 1)
    evaluated = _sample(Judged(item, (ROLLOUT,), (Invalid("why"),)))
    names = {"step", "evaluation", *record.samples[0], *evaluated}
    assert listed(manual, "samples.jsonl", "field") == names


def test_events(manual):
    calls = [
        call
        for file in Path(astor_rl.__file__).parent.rglob("*.py")
        for call in re.findall(r"\.append_event\(([^)]*)\)", file.read_text(encoding="utf-8"))
    ]
    table = {
        manual.code(row["field"]): row["what"] for row in manual.table("metrics", "events.jsonl")
    }
    named = {word for call in calls for word in re.findall(r'"(\w+)"', call)}
    assert set(re.findall(r"`(\w+)`", table["event"])) == named
    details = {word for call in calls for word in re.findall(r"(\w+)=", call)}
    assert table.keys() == {"time", "event", *details}


def test_the_run_folders_files(manual):
    text = (run_folder.__doc__ or "").split("```")[1]
    files = set(re.findall(r"(?:^|  )([a-z]+(?:\.jsonl?|\.lock|/))", text, re.MULTILINE))
    shown = {
        manual.code(r["file or folder"]) for r in manual.table("getting-started", "The run folder")
    }
    assert len(files) >= 8
    assert files <= shown


def test_the_keys_that_a_resume_keeps(manual):
    *rows, of_tasks = manual.table("getting-started", "Stop and resume")
    keys = [key for row in rows for key in re.findall(r"`([^`]+)`", row["keys"])]
    assert sorted(keys) == sorted(run_folder._FIXED)
    assert of_tasks["keys"].startswith("the tasks' names; ")
    assert re.findall(r"`([^`]+)`", of_tasks["keys"]) == list(run_folder._FIXED_OF_TASKS)


def test_the_attacks_are_counted(manual):
    attacks = list(catalogue.attacks())
    text = manual.section("sandbox", "What was attacked")
    counted = {row["goal"]: int(row["attacks"]) for row in manual.rows(text)}
    assert counted == Counter(attack.goal for attack in attacks)
    controls = sum(bool(attack.outside) or attack.outside_exit is not None for attack in attacks)
    assert f"{controls} of them have a control" in text
    assert f"{sum(attack.anywhere for attack in attacks)} end the same way" in text


def test_protections_and_limits(manual):
    table = manual.table("sandbox", "What each layer guarantees")
    names = {
        manual.code(row["name"]): row["while it is in force"] for row in table if "name" in row
    }
    assert names == GUARANTEES
    table = manual.table("sandbox", "How a job runs")
    assert {manual.code(r["limit"]): float(r["default"]) for r in table} == dataclasses.asdict(
        Limits()
    )
    assert f"run {RECYCLE_AFTER:,} jobs" in " ".join(manual.text("sandbox").split())
