"""Aider's polyglot benchmark: Exercism's hard exercises in six languages, two tries each.

As Aider has it: a first try from the instructions and the stubs; if tests fail, a second one after
their output has been shown. `pass@1` is the share of exercises right at the first try, `pass@2` at
either (with several samples: the mean over them; it isn't pass@k for k = 2). The prompts' words are
this project's own, the answer is always whole files, and within a try nothing is asked again (Aider
lets a model repair an answer that it can't apply, or that its linter rejects, three times).

Python runs in the sandbox, tests and solution in processes of their own. An exercise whose tests
can't be run so (`paasio`, which mocks) shares one process; there, and in the other languages, a
solution that is out to cheat could forge its tests' report (`toolchains` says what is checked). A
language that can't run here is reported as not run and counts nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from astor_rl.data.rows import Row
from astor_rl.errors import DataError
from astor_rl.evaluate.suites.base import Answer, Graded, Question, Report, Turn
from astor_rl.evaluate.suites.compiled import bounded
from astor_rl.evaluate.suites.statistics import Metric, mean_metric
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Example, Invalid, Score

LANGUAGES = ("python", "cpp", "go", "java", "javascript", "rust")

_CPU_S = 60.0
"""CPU seconds of a Python solution, on the clock four times as many (`validation.time_limits`).

Ten times the training task's: Aider allows 180 s on the clock, and solutions that search for long
are right there. Tests run once more to tell of them have the training task's time.
"""
_RULES = "Keep the names of what it defines: tests use them. Use the standard library only."
"""What Aider says as well. The training task's prompt, which trained runs rest on, doesn't."""


class Language(Protocol):
    """How exercises of one language are asked and judged."""

    def question(self, row: Row) -> Question:
        """A row as a question. Raises `DataError`."""
        ...

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """A verdict for each answer, in order."""
        ...

    async def follow_up(self, answer: Answer) -> str | Invalid | None:
        """What is said after a failed try: the tests' errors."""
        ...


class Python:
    """Exercises in Python, in the sandbox."""

    def __init__(self, sandbox: SandboxPool) -> None:
        self._task = CodeGenerationTask(
            sandbox, tier="exercise", timeout_s=_CPU_S, allow_shared_process=True
        )

    def question(self, row: Row) -> Question:
        """See `Language.question`."""
        example = self._task.example(row.fields, origin=row.origin, unit=row.unit)
        (asked,) = self._task.prompt(example)
        content = f"{asked['content']}\n\n{_RULES}"
        return Question(example, ({"role": "user", "content": content},))

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """See `Language.judge`."""
        return await self._task.score(
            [(answer.question.example, rollout_of(answer.text)) for answer in answers]
        )

    async def follow_up(self, answer: Answer) -> str | Invalid | None:
        """See `Language.follow_up`."""
        told = await self._task.failures(answer.question.example, answer.text)
        if isinstance(told, Invalid):
            return told
        (name,) = answer.question.example.fields["files"]
        return (
            f"The tests fail:\n{bounded(told)}\n\nThe tests are right. Correct `{name}`: answer "
            "with the whole file in one ```python block."
        )


class PolyglotSuite:
    """Exercises in the languages that run here.

    Args:
        rows: of all languages; `language` is `python` where it is absent.
        languages: those that run, by name.
        not_run: why others don't, by name.
        choose: which of the rows that run are asked.

    Raises:
        DataError: a row lacks a field, or is of no known language.
    """

    name = "aider-polyglot"
    turns = 2
    max_tokens = 4096
    stop: tuple[str, ...] = ()

    def __init__(
        self,
        rows: Sequence[Row],
        languages: Mapping[str, Language],
        not_run: Mapping[str, str],
        choose: Callable[[Sequence[Row]], list[Row]] = list,
    ) -> None:
        self._languages = languages
        self._rows = Counter(map(_language, rows))
        self._not_run = not_run
        self._language_of: dict[str, str] = {}
        self.questions: list[Question] = []
        for row in choose([row for row in rows if _language(row) in languages]):
            question = languages[_language(row)].question(row)
            self._language_of[question.example.key] = _language(row)
            self.questions.append(question)

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """Each answer by its language's rules."""
        places: dict[str, list[int]] = {}
        for place, answer in enumerate(answers):
            places.setdefault(self._name(answer.question.example), []).append(place)
        found: dict[int, Score | Invalid] = {}
        for name, group in places.items():
            verdicts = await self._languages[name].judge([answers[place] for place in group])
            found |= zip(group, verdicts, strict=True)
        return [found[place] for place in range(len(answers))]

    async def follow_up(self, answer: Answer) -> str | Invalid | None:
        """The tests' errors."""
        return await self._languages[self._name(answer.question.example)].follow_up(answer)

    def _name(self, example: Example) -> str:
        return self._language_of[example.key]

    def report(self, graded: Sequence[Graded]) -> Report:
        """`pass@1` and `pass@2` over what ran, and by language."""
        by_language: dict[str, list[Graded]] = {}
        for one in graded:
            by_language.setdefault(self._name(one.question.example), []).append(one)
        ran = ", ".join(f"{name} {len(group)}" for name, group in by_language.items())
        notes = [f"ran {len(graded)} of {self._rows.total()} exercises: {ran or 'none'}"]
        if cut := sum(map(_half_judged, graded)):
            notes.append(
                f"samples whose second try could not be judged, in neither pass@1 nor pass@2: {cut}"
            )
        return Report(
            _tries(graded),
            notes=tuple(notes),
            parts={name: _tries(group) for name, group in by_language.items()},
            not_run={name: self._why_not(name) for name in LANGUAGES if name not in by_language},
        )

    def _why_not(self, name: str) -> str:
        if not self._rows[name]:
            return "the data has no exercises in it"
        if name in self._languages:
            return "none of its exercises were drawn"
        return f"{self._not_run.get(name, 'no toolchain')} ({self._rows[name]} exercises)"


def _language(row: Row) -> str:
    name = row.fields.get("language", "python")
    if name not in LANGUAGES:
        raise DataError(
            f"{row.origin}: field 'language' is {name!r}; it must be of {', '.join(LANGUAGES)}"
        )
    return str(name)


def _tries(graded: Sequence[Graded]) -> dict[str, Metric]:
    """Both figures over the same samples, those that were judged to their end.

    A sample whose second try is invalid was wrong at the first and has no pass@2. It would count in
    pass@1 alone, and the difference of the two would be between different examples.
    """
    found = {}
    for tries, name in enumerate(("pass@1", "pass@2"), 1):
        rights = [
            [_right(sample[:tries]) for sample in one.samples if _judged(sample)] for one in graded
        ]
        found[name] = mean_metric([sum(group) / len(group) for group in rights if group])
    return found


def _right(turns: Sequence[Turn]) -> bool:
    return any(isinstance(turn.verdict, Score) and turn.verdict.outcome == 1.0 for turn in turns)


def _judged(turns: Sequence[Turn]) -> bool:
    return all(isinstance(turn.verdict, Score) for turn in turns)


def _half_judged(graded: Graded) -> int:
    """Samples whose first try was judged and a later one wasn't."""
    return sum(_judged(sample[:1]) and not _judged(sample) for sample in graded.samples)
