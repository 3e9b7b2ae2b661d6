"""The mean of ten metrics by which the ASTOR paper (arXiv 2605.06111) compares models.

The paper doesn't say which BLEU and ROUGE it takes; here they are B-Norm, which studies of commit
messages recommend, and ROUGE-L. A mean of ten is given when all ten were measured in full, and
never made of fewer: what there is goes under another name, with its count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METRICS: tuple[tuple[str, str], ...] = (
    ("cruxeval-input", "pass@1"),
    ("cruxeval-output", "pass@1"),
    ("aider-polyglot", "pass@1"),
    ("aider-polyglot", "pass@2"),
    ("defects4j", "line_coverage"),
    ("defects4j", "branch_coverage"),
    ("defects4j", "compile_rate"),
    ("commit-messages", "b_norm"),
    ("commit-messages", "rougeL"),
    ("commit-messages", "meteor"),
)
"""(suite, metric), in the order of the paper's table."""

SUITES = tuple(dict.fromkeys(suite for suite, _ in METRICS))
"""What `--suite paper` stands for."""


@dataclass(frozen=True, slots=True)
class PaperSummary:
    """What is known of the ten.

    Attributes:
        measured: value by `suite metric`, those measured at least in part.
        partial: which of them lack a part of their suite, and which part. Answers that could not
            be judged are such a part: a mean without them isn't one of the whole.
        missing: which weren't measured, and why.
        mean_of_10: in [0, 1]; None unless all ten were measured in full.
        mean_of_measured: of `measured`; None if there are none.
        se_at_most: bound on the standard error of that mean: metrics of one suite rest on the same
            answers, so their errors are added; suites are independent. None if one is unknown.
    """

    measured: dict[str, float]
    partial: dict[str, str]
    missing: dict[str, str]
    mean_of_10: float | None
    mean_of_measured: float | None
    se_at_most: float | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "mean_of_10": self.mean_of_10,
            "mean_of_measured": self.mean_of_measured,
            "se_at_most": self.se_at_most,
            "count": len(self.measured),
            "measured": self.measured,
            "partial": self.partial,
            "missing": self.missing,
        }


def summarize_paper(suites: Mapping[str, Mapping[str, Any]]) -> PaperSummary:
    """The summary of an evaluation.

    Args:
        suites: the results' entries by suite (`results.suite_result`).
    """
    measured: dict[str, float] = {}
    partial: dict[str, str] = {}
    missing: dict[str, str] = {}
    errors: dict[str, list[float | None]] = {}
    for suite, metric in METRICS:
        name = f"{suite} {metric}"
        result = suites.get(suite, {})
        found = result.get("metrics", {}).get(metric)
        not_run: Mapping[str, str] = result.get("not_run", {})
        if found is None or not math.isfinite(found["value"]):
            missing[name] = next(iter(not_run.values()), "not asked for")
            continue
        measured[name] = found["value"]
        errors.setdefault(suite, []).append(found["se"])
        if part := _part(result, not_run) or result.get("lacking", {}).get(metric):
            partial[name] = part
    mean = sum(measured.values()) / len(measured) if measured else None
    complete = len(measured) == len(METRICS) and not partial
    return PaperSummary(
        measured, partial, missing, mean if complete else None, mean, _bound(errors, len(measured))
    )


def _part(result: Mapping[str, Any], not_run: Mapping[str, str]) -> str:
    """What a suite's figures lack, empty if nothing."""
    asked, rows = result.get("questions", 0), result.get("rows", 0)
    if not_run:
        return f"without {', '.join(not_run)}"
    if asked < rows:
        return f"{asked} of {rows} questions"
    invalid = result.get("invalid", 0)
    return f"{invalid} answers could not be judged" if invalid else ""


def _bound(errors: Mapping[str, list[float | None]], count: int) -> float | None:
    total = 0.0
    for group in errors.values():
        known = [error for error in group if error is not None]
        if len(known) < len(group):
            return None
        total += sum(known) ** 2
    return math.sqrt(total) / count if count else None
