"""Why a task got its share of a batch and its KL coefficient, in words, from the run folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from astor_rl.errors import DataError
from astor_rl.report import text
from astor_rl.report.run_folder import read_config, read_metrics, read_receipts, require_run

PARTS = ("method", "potential", "synergy", "cost", "floor", "rounding", "availability")
"""Fields of `plan.TaskReceipt` that lead from `base` to `share`, in order."""

_UTILITY_PARTS = frozenset({"potential", "synergy", "floor"})
"""Parts that only `schedule.method = "astor"` has."""

_REASONS = {
    "method": ("the rule of `schedule.method` gives it more", "it gives the task less"),
    "potential": (
        "its outcomes are less settled than the other tasks': there is more to learn",
        "its outcomes are more settled than the other tasks'",
    ),
    "synergy": ("its gradient agrees with the others'", "it agrees less than the others do"),
    "cost": ("its prompts take fewer tokens", "its prompts take more tokens"),
    "floor": ("a part of the batch always follows the base mixture",) * 2,
    "rounding": ("whole prompts; the error is carried over",) * 2,
    "availability": ("what other tasks had no prompts for", "it is short of prompts"),
}
"""For each part, why it added and why it took."""

_NAME_WIDTH = 16


def why(path: str | Path, *, step: int | None = None, task: str | None = None) -> list[str]:
    """Lines that explain one step's batch.

    Args:
        path: a run folder.
        step: the RL step, counted from 1; None for the last one.
        task: only this one; None for all.

    Raises:
        DataError: no run is there, it has no such step, or no such task.
    """
    path = require_run(path)
    receipt = _of_step(read_receipts(path), step, path)
    tasks = receipt["tasks"]
    if task is not None and task not in tasks:
        raise DataError(f"task {task!r} is not in this run; it has {', '.join(tasks)}")
    metrics = next((row for row in read_metrics(path) if row["step"] == receipt["step"]), {})
    prompts = sum(row["prompts"] for row in tasks.values())
    config = read_config(path)
    method = config.get("schedule", {}).get("method", "astor")
    lines = [
        f"step {receipt['step']} of {config.get('max_steps', text.UNKNOWN)}: {prompts} prompts; "
        + _phase(receipt, method)
    ]
    for name in tasks if task is None else [task]:
        lines += ["", name, *_task(tasks[name], prompts, metrics.get(f"task/{name}/synergy"))]
    notes = [note for note in receipt["notes"] if task is None or _concerns(note, task, tasks)]
    return [*lines, *([""] if notes else []), *(f"note: {note}" for note in notes)]


def _of_step(
    receipts: Sequence[Mapping[str, Any]], step: int | None, path: Path
) -> Mapping[str, Any]:
    if not receipts:
        raise DataError(f"run folder {str(path)!r} has no RL step yet; there is nothing to explain")
    found = [each for each in receipts if step is None or each["step"] == step]
    if not found:
        first, last = receipts[0]["step"], receipts[-1]["step"]
        raise DataError(f"step {step} is not in this run; it has {first} to {last}")
    return found[-1]


def _phase(receipt: Mapping[str, Any], method: str) -> str:
    if method != "astor":
        return f"shares follow schedule.method = {method!r}"
    if receipt["phase"] == "scheduled":
        return f"quotas follow the utilities of revision {receipt['snapshot_revision']}"
    return "warm-up: quotas are the base mixture until every task is measured"


def _task(row: Mapping[str, Any], prompts: int, synergy: float | None) -> Iterator[str]:
    yield _part("base mixture", row["base"], "its `ratio` among the tasks'", sign=" ")
    terms = row.get("terms", {})
    silent = {"cost", "method", *(_UTILITY_PARTS if terms or row.get("method") else ())}
    for part in PARTS:
        value = row.get(part, 0.0)
        # These are of those who asked for them; the others are shown even when they did nothing.
        if value or part not in silent:
            reason = _reason(part, value, known=synergy is not None)
            yield _part(part, abs(value), reason, sign="-" if value < 0 else "+")
    yield _part("share", row["share"], f"{row['prompts']} of {prompts} prompts", sign="=")
    if terms:
        figures = ", ".join(f"{name} {text.number(value)}" for name, value in terms.items())
        yield f"  its figures: {figures}"
    if row["beta_multiplier"] == 1:
        holding = "as tightly as its config says"
    else:
        holding = "more loosely" if row["beta_multiplier"] < 1 else "more tightly"
    yield (
        f"  beta {text.small(row['beta'])} = {text.small(row['beta_base'])} x "
        f"{text.number(row['beta_multiplier'])}: held {holding} "
        f"(utility {text.with_error(row['utility'], row['utility_se'])}, z {row['z']:+.2f})"
    )


def _part(name: str, value: float, reason: str, *, sign: str) -> str:
    return f"  {sign} {name:<{_NAME_WIDTH}} {100 * value:5.1f} %   {reason}".rstrip()


def _reason(part: str, value: float, *, known: bool) -> str:
    if part == "synergy" and not known:
        return "unknown so far: needs more probes"
    if abs(value) < 5e-4:
        return ""
    return _REASONS[part][value < 0]


def _concerns(note: str, task: str, tasks: Mapping[str, Any]) -> bool:
    """Whether a note names the task, or no task at all."""
    named = set(re.findall(r"[\w.-]+", note)) & set(tasks)
    return not named or task in named
