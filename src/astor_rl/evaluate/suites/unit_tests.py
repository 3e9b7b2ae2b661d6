"""Unit tests that the model writes: do they compile, pass, cover, and notice what is wrong?

Tests are read and judged as in training (`UnitTestGenerationTask`), by its gate: tests that don't
pass on the correct code, or check nothing, cover nothing and kill nothing. Figures are means over
examples.

    compile_rate       tests could be read and parse
    pass_rate          every test passes on the correct code, twice
    line_coverage, branch_coverage
                       of the correct code, as coverage.py counts; branches where there are any
    mutation_score     share of the row's mutants that a test fails on
    bug_detection      share of rows with a known bug (QuixBugs) whose tests fail on the buggy code
"""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import (
    Answer,
    Graded,
    Question,
    Report,
    SingleTry,
    mean_of_metric,
)
from astor_rl.evaluate.suites.statistics import mean_metric
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks.unit_test_generation import UnitTestGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid, Score

FIGURES = {
    "compile_rate": "compiles",
    "pass_rate": "passes",
    "line_coverage": "line_coverage",
    "branch_coverage": "branch_coverage",
    "mutation_score": "mutation_score",
    "bug_detection": "detects_bug",
}
"""Name in the table -> the task's metric."""


class UnitTestSuite(SingleTry):
    """Tests for modules.

    Args:
        rows: in `UnitTestGenerationTask`'s form.
        sandbox: where tests run.

    Raises:
        DataError: a row lacks a field or holds something else.
    """

    name = "unit-tests"

    def __init__(self, rows: Sequence[Row], sandbox: SandboxPool) -> None:
        self.max_tokens = 1024
        self._task = UnitTestGenerationTask(sandbox)
        examples = [
            self._task.example(row.fields, origin=row.origin, unit=row.unit) for row in rows
        ]
        self.questions = [
            Question(example, tuple(self._task.prompt(example))) for example in examples
        ]

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """The task's verdicts."""
        return await self._task.score(
            [(answer.question.example, rollout_of(answer.text)) for answer in answers]
        )

    def report(self, graded: Sequence[Graded]) -> Report:
        """Each of `FIGURES` that the rows have."""
        found = {name: mean_of_metric(graded, metric) for name, metric in FIGURES.items()}
        return Report({name: mean_metric(values) for name, values in found.items() if values})
