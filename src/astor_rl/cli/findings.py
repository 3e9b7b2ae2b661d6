"""What was found, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from astor_rl.engines.validation import Checked
from astor_rl.evaluate.heldout import TaskResult
from astor_rl.evaluate.suites import results as benchmarks
from astor_rl.evaluate.suites.paper import summarize_paper
from astor_rl.report import text

_SHOWN = 3
"""Problems listed for each task."""


def held_out(results: Mapping[str, TaskResult]) -> Iterator[str]:
    """Results on held-out examples: one line a task, its own metrics below it."""
    for name, result in results.items():
        facts = [
            f"outcome {text.with_error(result.outcome, result.outcome_se)}",
            f"format {text.number(result.format)}",
            f"{result.examples} examples",
            f"{text.percent(result.truncated)} truncated",
        ]
        if result.mixed is not None:
            facts.append(f"{text.percent(result.mixed)} mixed")
        if result.invalid:
            facts.append(f"{result.invalid} not judged")
        yield f"{name}: " + ", ".join(facts)
        if result.metrics:
            listed = ", ".join(f"{key} {text.number(v)}" for key, v in result.metrics.items())
            yield f"  {listed}"


def suites(results: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Results of public benchmarks, and the file they are in."""
    yield from benchmarks.table(results["suites"])
    if "paper" in results:
        yield from benchmarks.paper_lines(summarize_paper(results["suites"]))
    yield f"results: {path}"


def validation(checked: Sequence[Checked]) -> Iterator[str]:
    """What a check of the data found: one line a task, and its first problems below it."""
    for task in checked:
        found = task.report
        yield (
            f"{'ok' if found.ok else 'WRONG':<6} {task.name}: {found.checked} checked of "
            f"{task.train} train, {task.validation} validation, {task.test} test; "
            f"{len(found.gold_below_ceiling)} right answers not rewarded, "
            f"{len(found.broken_at_ceiling)} wrong ones rewarded, "
            f"{len(found.invalid)} not judged; verdict {task.verdict}"
        )
        problems = [
            *(f"{o}: right answer got {r:.3g} ({why})" for o, r, why in found.gold_below_ceiling),
            *(f"{o}: wrong answer {v!r} got {r:.3g}" for o, v, r in found.broken_at_ceiling),
            *(f"{o}: not judged ({why})" for o, why in found.invalid),
        ]
        for problem in problems[:_SHOWN]:
            yield f"       {problem}"
        if len(problems) > _SHOWN:
            yield f"       and {len(problems) - _SHOWN} more"
