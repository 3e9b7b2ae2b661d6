"""The closing table, made from the run folder alone: what the run did for each task, and why.

Differences are between the last evaluation before RL and the one after it. When both looked at
the same examples the standard error is that of the paired differences, which is what their
correlation is worth; otherwise sqrt(se_before^2 + se_after^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from astor_rl.report import text
from astor_rl.report.run_folder import (
    ENDS,
    read_config,
    read_evaluations,
    read_events,
    read_metrics,
    read_receipts,
    require_run,
)

_UNFINISHED = "unfinished"
STAGES = ("before_warmup", "before_rl", "after_rl")
"""Names of the evaluations that the table compares, in order."""
TIME_PARTS = ("rollout", "reward", "update", "coordination")
"""Metrics `time/<part>` are seconds of a step spent there; `time/step` is the whole step."""
TOKENS = "tokens/generated"
"""Metric: completion tokens sampled in a step."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A held-out mean outcome.

    Attributes:
        mean: in [0, 1]; None when no sample could be judged.
        se: its standard error over examples; None when unknown.
        examples: examples it is of.
    """

    mean: float | None
    se: float | None
    examples: int


@dataclass(frozen=True, slots=True)
class Change:
    """A difference of two held-out means.

    Attributes:
        mean: after minus before.
        se: its standard error; None when unknown.
        paired: whether it is of the same examples, one by one.
    """

    mean: float
    se: float | None
    paired: bool


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task's course.

    Attributes:
        name: the task.
        scores: by evaluation name (`STAGES`), those that were made.
        change: after RL against before it; None without both.
        quota: share of the batch, by step.
        beta: KL coefficient, by step.
    """

    name: str
    scores: Mapping[str, Measured]
    change: Change | None
    quota: tuple[float | None, ...]
    beta: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in a table.

    Attributes:
        folder: where it is.
        model: what was trained.
        steps, max_steps: RL steps done and asked for.
        tasks: in the config's order.
        shares: share of the steps' time by part (`TIME_PARTS`, `other`), in [0, 1]; empty when
            nothing was measured.
        tokens: completion tokens sampled in RL.
        max_tokens: how many end the run; None where only steps do.
        rl_seconds: time of all RL steps; None when not measured.
        wall_seconds: time of all sessions, loading and evaluation included; None while the last
            one has no end.
        sessions: how often the run was started or resumed.
        state: `finished`, `stopped` or `killed`, as the last session ended; `unfinished` where it
            hasn't written its end: it is running, or was killed.
    """

    folder: str
    model: str
    steps: int
    max_steps: int
    tasks: tuple[TaskSummary, ...]
    shares: Mapping[str, float]
    tokens: int
    max_tokens: int | None
    rl_seconds: float | None
    wall_seconds: float | None
    sessions: int
    state: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summarize(path: str | Path) -> Summary:
    """Read a run folder, finished or not. Raises `DataError` when there is none."""
    path = require_run(path)
    config, metrics, events = read_config(path), read_metrics(path), read_events(path)
    receipts, evaluations = read_receipts(path), read_evaluations(path)
    seconds = _total(metrics, "time/step")
    last = events[-1].get("event") if events else None
    state = last if last in ENDS else _UNFINISHED
    return Summary(
        folder=str(path),
        model=str(config.get("model", text.UNKNOWN)),
        steps=len(metrics),
        max_steps=int(config.get("max_steps", len(metrics))),
        tasks=tuple(
            _task(name, receipts, evaluations)
            for name in _task_names(config, receipts, evaluations)
        ),
        shares=_shares(metrics, seconds),
        tokens=int(_total(metrics, TOKENS) or 0),
        max_tokens=config.get("max_generated_tokens"),
        rl_seconds=seconds,
        wall_seconds=None if state == _UNFINISHED else _wall_seconds(events),
        sessions=sum(event.get("event") in {"started", "resumed"} for event in events),
        state=state,
    )


def _task_names(
    config: Mapping[str, Any],
    receipts: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    names = [task["name"] for task in config.get("tasks", [])]
    seen = [record.get("tasks", {}) for record in (*receipts, *evaluations.values())]
    return list(dict.fromkeys([*names, *(name for tasks in seen for name in tasks)]))


def _task(
    name: str,
    receipts: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Mapping[str, Any]],
) -> TaskSummary:
    results = {
        stage: evaluations[stage]["tasks"][name]
        for stage in STAGES
        if name in evaluations.get(stage, {}).get("tasks", {})
    }
    rows = [record.get("tasks", {}).get(name, {}) for record in receipts]
    return TaskSummary(
        name=name,
        scores={stage: _measured(result) for stage, result in results.items()},
        change=change(results.get("before_rl"), results.get("after_rl")),
        quota=tuple(row.get("share") for row in rows),
        beta=tuple(row.get("beta") for row in rows),
    )


def _measured(result: Mapping[str, Any]) -> Measured:
    return Measured(result.get("outcome"), result.get("outcome_se"), int(result.get("examples", 0)))


def change(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Change | None:
    """After minus before, of two `TaskResult.as_dict()`; None when either is not known.

    Paired, the standard error is sd(d_i) / sqrt(n) over the n examples' differences d_i.
    """
    if before is None or after is None:
        return None
    old, new = before.get("per_example") or {}, after.get("per_example") or {}
    if old and old.keys() == new.keys():
        gaps = [new[key] - old[key] for key in old]
        # Gaps that are all alike (a few examples, none changed) say nothing of their spread.
        se = standard_error(gaps) if min(gaps) < max(gaps) else None
        return Change(_mean(gaps), se, paired=True)
    if before.get("outcome") is None or after.get("outcome") is None:
        return None
    errors = [before.get("outcome_se"), after.get("outcome_se")]
    known = [error for error in errors if error is not None]
    se = math.hypot(*known) if len(known) == len(errors) else None
    return Change(after["outcome"] - before["outcome"], se, paired=False)


def standard_error(values: Sequence[float]) -> float | None:
    """sd / sqrt(n) with the unbiased variance; None with fewer than two values."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _total(metrics: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [record[name] for record in metrics if record.get(name) is not None]
    return math.fsum(known) if known else None


def _shares(metrics: Sequence[Mapping[str, Any]], seconds: float | None) -> dict[str, float]:
    if not seconds:
        return {}
    totals = {part: _total(metrics, f"time/{part}") for part in TIME_PARTS}
    shares = {part: total / seconds for part, total in totals.items() if total is not None}
    # Only rounding can bring what is left below 0.
    return {**shares, "other": max(0.0, 1 - math.fsum(shares.values()))}


def _wall_seconds(events: Sequence[Mapping[str, Any]]) -> float | None:
    total, begun, last = 0.0, None, None
    for event in events:
        if event.get("event") in {"started", "resumed"}:
            total += (last - begun) if begun is not None and last is not None else 0.0
            begun = event["time"]
        last = event["time"]
    return None if begun is None or last is None else total + last - begun


def render(summary: Summary, stream: IO[str]) -> None:
    """Print the table: with colour on a terminal, as plain lines elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ascii_only = not text.shows_blocks(stream)
    # Elsewhere than on a terminal nothing wraps: a log line can be as long as it needs.
    width = None if stream.isatty() else 200
    console = Console(file=stream, width=width, highlight=False, safe_box=True)
    table = Table(box=box.ASCII if ascii_only else box.SIMPLE_HEAD)
    made = [stage for stage in STAGES if any(stage in task.scores for task in summary.tasks)]
    titles = ["task", *(stage.replace("_", " ") for stage in made), "change", "quota", "beta"]
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 else "right")
    for row in _rows(summary, made, ascii_only):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    for line in footer(summary):
        console.print(Text(_plain(line, ascii_only)), soft_wrap=True)


def _rows(summary: Summary, made: Sequence[str], ascii_only: bool) -> list[list[str]]:
    rows = []
    for task in summary.tasks:
        scores = [task.scores.get(stage) for stage in made]
        cells = [
            task.name,
            *(text.with_error(s.mean, s.se) if s else "-" for s in scores),
            text.signed(task.change.mean, task.change.se) if task.change else "-",
            _course(task.quota, text.percent, top=1.0, ascii_only=ascii_only),
            _course(task.beta, text.small, top=None, ascii_only=ascii_only),
        ]
        rows.append([_plain(cell, ascii_only) for cell in cells])
    return rows


def _course(
    values: Sequence[float | None],
    show: Callable[[float | None], str],
    *,
    top: float | None,
    ascii_only: bool,
) -> str:
    if not values:
        return "-"
    line = text.sparkline(values, width=16, top=top, ascii=ascii_only)
    return f"{show(values[0])} {line} {show(values[-1])}"


def _plain(line: str, ascii_only: bool) -> str:
    return line.replace("±", "+-") if ascii_only else line


def footer(summary: Summary) -> list[str]:
    """What goes below the table, as lines."""
    limit = "" if summary.max_tokens is None else f" of {summary.max_tokens:,}"
    lines = [
        f"{summary.steps} of {summary.max_steps} RL steps of {summary.model}, "
        f"{summary.tokens:,}{limit} tokens sampled, RL {text.duration(summary.rl_seconds)}"
        + (f", all {text.duration(summary.wall_seconds)}" if summary.wall_seconds else "")
        + (f" in {summary.sessions} sessions" if summary.sessions > 1 else "")
    ]
    if summary.shares:
        parts = ", ".join(f"{part} {text.percent(s)}" for part, s in summary.shares.items())
        lines.append(f"a step's time: {parts}")
    changes = [task.change for task in summary.tasks if task.change]
    if changes:
        paired = all(each.paired for each in changes)
        lines.append(
            "change: after RL minus before RL, ± standard error"
            + (" of the paired differences" if paired else " (not all on the same examples)")
        )
    if summary.state != "finished":
        unknown = summary.state == _UNFINISHED
        said = "is running, or was killed" if unknown else f"was {summary.state}"
        lines.append(f"not finished: it {said}; --resume goes on from its last checkpoint")
    lines.append(f"run folder: {summary.folder}")
    return lines
