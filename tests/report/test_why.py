"""`astor why`: a real coordinator's receipts, told in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from astor_rl.coordinator import Coordinator
from astor_rl.errors import DataError
from astor_rl.plan import GroupOutcome, TaskSpec, UpdateStats
from astor_rl.report.run_folder import RunFolder
from astor_rl.report.why import why

STEPS = 14


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`open` varies, `solved` does not; `short` varies and has three prompts only."""
    path = tmp_path_factory.mktemp("why") / "run"
    sizes = {"open": 60, "solved": 60, "short": 3}
    coordinator = Coordinator(
        [TaskSpec(name, [f"{name}{i}" for i in range(n)]) for name, n in sizes.items()],
        prompts_per_step=12,
    )
    outcomes = {"open": (1.0, 0.0, 1.0, 0.0), "solved": (1.0,) * 4, "short": (1.0, 0.0, 1.0, 0.0)}
    with RunFolder.create(path, {"max_steps": STEPS}, resume=False) as folder:
        for step in range(1, STEPS + 1):
            plan = coordinator.plan(revision=step - 1)
            coordinator.observe_groups(
                plan.id, [GroupOutcome(item.slot, outcomes[item.task]) for item in plan.items]
            )
            coordinator.observe_update(plan.id, step, UpdateStats())
            folder.append_metrics(step, coordinator.metrics())
            folder.append_receipt(step, plan.receipt.as_dict())
    return path


def percentages(lines: list[str]) -> Iterator[tuple[str, float]]:
    """The signed parts of one task, in percent."""
    for line in lines:
        if match := re.match(r"  ([ +=-]) (\w[\w ]*?) +([\d.]+) %", line):
            sign = -1 if match[1] == "-" else 1
            yield match[2], sign * float(match[3])


@pytest.mark.parametrize("task", ["open", "solved", "short"])
@pytest.mark.parametrize("step", [1, 11, None])
def test_the_parts_add_up(run: Path, task: str, step: int | None) -> None:
    parts = dict(percentages(why(run, step=step, task=task)))
    share = parts.pop("share")
    assert next(iter(parts)) == "base mixture"
    assert math.isclose(sum(parts.values()), share, abs_tol=0.35)


def test_the_reasons_follow_the_signs(run: Path) -> None:
    told = {task: "\n".join(why(run, task=task)) for task in ("open", "solved", "short")}
    assert re.search(r"\+ potential .*less settled", told["open"])
    assert re.search(r"- potential .*more settled", told["solved"])
    assert "held more loosely" in told["open"] + told["short"]
    assert "held more tightly" in told["solved"]
    assert re.search(r"- availability .*short of prompts", told["short"])
    assert "note: task short is short of prompts" in told["short"]
    assert "short of prompts" not in told["solved"]
    assert all("unknown so far: needs more probes" in each for each in told.values())


def test_the_first_step_is_warm_up(run: Path) -> None:
    first, *lines = why(run, step=1)
    assert (
        first
        == f"step 1 of {STEPS}: 12 prompts; warm-up: quotas are the base mixture until "
        + ("every task is measured")
    )
    assert [line for line in lines if line in ("open", "solved", "short")] == [
        "open",
        "short",
        "solved",
    ]
    assert sum("held as tightly as its config says" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"step": 99}, "step 99 is not in this run; it has 1 to 14"),
        ({"task": "sloved"}, "task 'sloved' is not in this run; it has open, short, solved"),
    ],
)
def test_what_is_not_there(run: Path, asked: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        why(run, **asked)  # type: ignore[arg-type]


def test_a_run_without_a_step(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", {}, resume=False).close()
    with pytest.raises(DataError, match="has no RL step yet; there is nothing to explain"):
        why(tmp_path / "run")
