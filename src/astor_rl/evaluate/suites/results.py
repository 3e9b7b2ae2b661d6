"""An evaluation's results: as JSON, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from astor_rl.evaluate.suites.base import TOO_LONG, Graded, Report
from astor_rl.evaluate.suites.data import SuiteRows
from astor_rl.evaluate.suites.paper import PaperSummary
from astor_rl.report import text
from astor_rl.types import Invalid

WHOLE = "all of it"
"""Name of the part that wasn't run when a suite wasn't run at all."""


def suite_result(report: Report, graded: Sequence[Graded], rows: SuiteRows) -> dict[str, Any]:
    """A suite's entry in `results.json`. Values and errors are shares in [0, 1]."""
    turns = [turn for one in graded for sample in one.samples for turn in sample]
    cut = sum(turn.finish_reason == "length" for turn in turns)
    return {
        "metrics": {name: metric.as_dict() for name, metric in report.metrics.items()},
        "parts": {
            part: {name: metric.as_dict() for name, metric in metrics.items()}
            for part, metrics in report.parts.items()
        },
        "not_run": dict(report.not_run),
        "lacking": dict(report.lacking),
        "notes": list(report.notes),
        "questions": len(graded),
        "rows": len(rows.rows),
        "data": {"sources": list(rows.sources), "digest": rows.digest},
        "invalid": sum(isinstance(turn.verdict, Invalid) for turn in turns),
        "repeated": len(graded) - len({one.question.example.key for one in graded}),
        "too_long": sum(turn.finish_reason == TOO_LONG for turn in turns),
        "truncated": cut / len(turns) if turns else 0.0,
    }


def not_run_result(reason: str) -> dict[str, Any]:
    """The entry of a suite that wasn't run at all."""
    return {"metrics": {}, "not_run": {WHOLE: reason}}


def table(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The results as lines: a figure each, in percent, and what must be known beside it."""
    rows = [
        (suite, name, metric)
        for suite, result in suites.items()
        for name, metric in _figures(result)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for suite, name, metric in rows:
        shown = _percent(metric["value"], metric["se"])
        count = f"{metric['examples']} examples"
        yield f"{suite:<{widths[0]}}  {name:<{widths[1]}}  {shown:>14}  {count}"
    for suite, result in suites.items():
        yield from (f"{suite}: {line}" for line in _remarks(result))


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from result["metrics"].items()
    parts: Mapping[str, Mapping[str, Any]] = result.get("parts", {})
    for part, metrics in parts.items() if len(parts) > 1 else ():
        yield from ((f"{name} ({part})", metric) for name, metric in metrics.items())


def _remarks(result: Mapping[str, Any]) -> Iterator[str]:
    yield from result.get("notes", ())
    if result.get("questions", 0) < result.get("rows", 0):
        yield f"{result['questions']} of {result['rows']} rows were asked"
    for name, what in (
        ("invalid", "answers could not be judged and count nowhere"),
        ("repeated", "questions repeat another one and count again: errors are larger than shown"),
        ("too_long", "questions don't fit the model and count as failed"),
    ):
        if result.get(name):
            yield f"{result[name]} {what}"
    if result.get("truncated"):
        yield f"{text.percent(result['truncated'])} of answers were cut at the length limit"
    for part, reason in result["not_run"].items():
        yield f"not run: {part}: {reason}"


def paper_lines(summary: PaperSummary) -> Iterator[str]:
    """The mean of ten, or what there is of it, as lines."""
    count = len(summary.measured)
    shown = _percent(summary.mean_of_measured, summary.se_at_most, at_most=True)
    if summary.mean_of_10 is not None:
        yield f"mean of 10 metrics: {shown}"
        return
    yield f"mean of 10 metrics: {text.UNKNOWN}: {len(summary.missing)} not measured, " + (
        f"{len(summary.partial)} in part"
    )
    if count:
        yield f"mean of the {count} measured: {shown}; it can't be compared with a mean of 10"
    yield from (f"  not measured: {name}: {why}" for name, why in summary.missing.items())
    yield from (f"  in part: {name}: {why}" for name, why in summary.partial.items())


def _percent(value: float | None, error: float | None, *, at_most: bool = False) -> str:
    if value is None or error is None:
        return text.number(None if value is None else 100 * value, 2)
    sign = "±<" if at_most else "±"
    return text.with_error(100 * value, 100 * error, 2).replace("±", sign)
