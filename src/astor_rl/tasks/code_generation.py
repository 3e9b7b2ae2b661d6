"""Code generation: write a function that passes its tests, or a file that passes a test suite."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from astor_rl.errors import ConfigError, SandboxError
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks import validation
from astor_rl.tasks.base import Pair, ValidationReport
from astor_rl.tasks.checks import SplitCheck
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.exercise_judge import ExerciseJudge
from astor_rl.tasks.exercise_tier import (
    exercise_fields,
    exercise_gold,
    exercise_prompt,
    stub_is_broken,
)
from astor_rl.tasks.function_judge import FunctionJudge, Judgement, TestResult
from astor_rl.tasks.function_tier import (
    checks_of,
    function_fields,
    function_prompt,
    gold_code,
)
from astor_rl.tasks.guard import guarded, guarded_async
from astor_rl.tasks.parsing import (
    defined_names,
    fenced,
    fences,
    is_one_python_fence,
    parse_python,
)
from astor_rl.types import Example, Invalid, Message, Score

_REPORTED = 3
"""Failed tests that the next turn is told about."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The code read of a completion, or the `fault` that keeps it from being run."""

    code: str
    format: float
    fault: str = ""


class CodeGenerationTask:
    """Write code that passes tests.

    Options:
        tier: `function` (default) or `exercise`; a task block holds rows of one tier.
        reward: `all` (default: 1 if every test passes) or `fraction` (of the tests whose expected
            value the prompt doesn't show, where there are such; hard-coding earns nothing).
        shown_tests: tests shown in the prompt of a `function` row that has no `>>>` examples.
        turns: 1, or 2 to show the failures of the first answer and ask again, as Aider does.
        timeout_s: CPU limit of one solution, seconds (`validation.time_limits`).
        allow_shared_process: for the few `exercise` rows whose tests can't be run from a process of
            their own: run them in the solution's. Otherwise rollouts of such rows are invalid.

    Rows of tier `function`: `prompt` (prose, or code to complete that defines `entry_point`),
    `entry_point`, `reference` (source of the function, or as in HumanEval the body that completes
    the prompt), `tests` (sources: asserts, or modules with `check(candidate)`). Optional:
    `signature`; `setup` (imports before the solution, or statements after it); `prelude` (imports
    and helpers that the solution may use); `given` (the first lines of the function, shown instead
    of the prompt's code: the answer is still the whole function).
    Verdict `unforgeable`: expected values never enter the process that runs the solution
    (`tasks.checks`), and a value that isn't a plain builtin equals nothing. A pass follows the
    assert's own `==`, so `1` passes for `True` and `1.0`.

    Rows of tier `exercise`: `prompt`, `files` (name -> stub, exactly one), `reference` (name ->
    source), `tests` (list of {path, content}), optional `support_files` and `stub_already_passes`.
    Verdict `unforgeable`: the tests run in a process of their own and see stand-ins of what the
    solution defines; a missing or skipped test counts as failed. With `allow_shared_process` it is
    `detected-only`: in the rows that need it (found with the reference; their metric `unforgeable`
    is 0), a solution that is out to cheat can patch the test framework.

    Answer form: one fenced block labelled `python`, prose around it allowed. The format reward is
    1 when there is exactly one fence, it is closed and labelled, and what is inside parses (and
    defines the entry point). For the outcome the last Python block that defines the entry point
    counts, be it unlabelled or cut off; without any fence the whole completion counts.
    """

    kind = "code_generation"
    verdict: str

    def __init__(
        self,
        sandbox: SandboxPool | None = None,
        *,
        tier: str = "function",
        reward: str = "all",
        shown_tests: int = 1,
        turns: int = 1,
        timeout_s: float = 6.0,
        allow_shared_process: bool = False,
    ) -> None:
        validation.require_choice(self.kind, "tier", tier, ("function", "exercise"))
        validation.require_choice(self.kind, "reward", reward, ("all", "fraction"))
        for name, value, low, high in (
            ("shown_tests", shown_tests, 0, 100),
            ("turns", turns, 1, 2),
            ("timeout_s", timeout_s, 0.01, 600),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    f"option {name!r} of task {self.kind!r} is {value!r}; "
                    f"it must be from {low} to {high}"
                )
        self._exercise = tier == "exercise"
        shares = self._exercise and allow_shared_process
        self.verdict = "detected-only" if shares else "unforgeable"
        self._fraction = reward == "fraction"
        self._shown_tests = shown_tests
        self._turns = turns
        limits = validation.time_limits(timeout_s)
        self._judges: FunctionJudge | ExerciseJudge | None = None
        if sandbox is not None and self._exercise:
            self._judges = ExerciseJudge(sandbox, limits, allow_shared=allow_shared_process)
        elif sandbox is not None:
            self._judges = FunctionJudge(sandbox, limits, shown_tests)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sandbox: SandboxPool | None) -> Self:
        """Build from `[tasks.options]`; see the class for the options.

        Raises:
            ConfigError: an unknown option or a bad value.
        """
        return cls(
            sandbox, **validation.read_options(cls.kind, config, validation.defaults_of(cls))
        )

    def example(self, row: Mapping[str, Any], *, origin: str, unit: str | None = None) -> Example:
        """Check a row of the task's tier; its unit is the row's `id` (or content) unless given.

        Raises:
            DataError: a field is missing, of the wrong type, or can't be used.
        """
        fields = exercise_fields(row, origin) if self._exercise else function_fields(row, origin)
        key = content_key(self.kind, fields)
        return Example(key, fields, origin, unit or str(row.get("id", key)))

    def prompt(self, example: Example) -> list[Message]:
        """One user message."""
        text = (
            exercise_prompt(example)
            if self._exercise
            else function_prompt(example, self._shown_tests)
        )
        return [{"role": "user", "content": text}]

    def answer(self, example: Example) -> str:
        """The reference in a fence, without what the prompt already gives."""
        row = example.fields
        return fenced(exercise_gold(row) if self._exercise else gold_code(row))

    def broken(self, example: Example) -> Mapping[str, str]:
        """Wrong answers in the right form; see `Task.broken`."""
        if self._exercise:
            variants = {"exits": "import os\nos._exit(0)", "raises": "raise RuntimeError('no')"}
            if stub_is_broken(example.fields):
                (variants["stub"],) = example.fields["files"].values()
        else:
            variants = _broken_functions(example)
        return {"empty": "", **{name: fenced(code) for name, code in variants.items()}}

    def ceiling(self, example: Example) -> float:
        """1: the reference passes every test."""
        return 1.0

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        """Judge; equal solutions of one example run once.

        `metrics`: `tests_passed` (share of all tests), `loads` (1 if the solution ran to its end);
        of exercises that are run also `unforgeable` (1 if the tests had a process of their own).

        Raises:
            SandboxError: the task has no sandbox.
        """
        answers = [
            guarded(self.kind, self._read, example, rollout.text) for example, rollout in pairs
        ]
        distinct = {
            (example.key, answer.code): example
            for (example, _), answer in zip(pairs, answers, strict=True)
            if isinstance(answer, _Answer) and not answer.fault
        }
        await self._prepare({example.key: example for example in distinct.values()})
        judged = await asyncio.gather(
            *(
                guarded_async(self.kind, self._judge(example, code))
                for (_, code), example in distinct.items()
            )
        )
        judgements = dict(zip(distinct, judged, strict=True))
        return [
            answer
            if isinstance(answer, Invalid)
            else Score(0.0, answer.format, {"tests_passed": 0.0, "loads": 0.0}, answer.fault)
            if answer.fault
            else guarded(self.kind, self._score, answer, judgements[example.key, answer.code])
            for (example, _), answer in zip(pairs, answers, strict=True)
        ]

    async def _prepare(self, examples: Mapping[str, Example]) -> None:
        """Learn of the references once, before many solutions ask for it at the same time."""
        if self._judges is not None:
            # What raises here raises again for each rollout that needs it, and is judged there.
            await asyncio.gather(
                *(
                    guarded_async(self.kind, _prepared(self._judges, example))
                    for example in examples.values()
                )
            )

    async def _judge(self, example: Example, code: str) -> Judgement | Invalid:
        if self._judges is None:
            raise SandboxError("task 'code_generation' can't score without a sandbox")
        return await self._judges.judge(example, code)

    def _score(self, answer: _Answer, judgement: Judgement | Invalid) -> Score | Invalid:
        if isinstance(judgement, Invalid):
            return judgement
        results = judgement.results
        share = sum(result.passed for result in results) / max(len(results), 1)
        outcome = float(share == 1.0)
        if self._fraction:
            hidden = [result.passed for result in results if not result.visible]
            outcome = sum(hidden) / len(hidden) if hidden else share
        failed = next((result for result in results if not result.passed), None)
        reason = judgement.fault or (f"{failed.call} {failed.actual}" if failed else "right")
        metrics = {"tests_passed": share, "loads": float(judgement.loads)}
        if self._exercise:
            metrics["unforgeable"] = float(judgement.unforgeable)
        return Score(outcome, answer.format, metrics, reason[:200])

    def _read(self, example: Example, text: str) -> _Answer:
        """The code of a completion by the rules of the class's docstring, and its format reward."""
        entry = None if self._exercise else example.fields["entry_point"]
        blocks = [block.code for block in fences(text) if block.is_python]
        if not blocks:
            blocks = [] if "```" in text else [text]
        fault = "no code" if not any(map(str.strip, blocks)) else ""
        for code in reversed(blocks if not fault else []):
            module = parse_python(code)
            if module is None:
                fault = fault or "code doesn't parse"
            elif entry is not None and entry not in defined_names(module):
                fault = fault or f"code doesn't define {entry!r}"
            else:
                return _Answer(code, float(is_one_python_fence(text)))
        return _Answer("", 0.0, fault)

    async def respond(self, example: Example, messages: Sequence[Message]) -> list[Message] | None:
        """The failures of the last answer, while turns remain; None when it is right.

        A failed test whose expected value the prompt doesn't show is told by its call alone, so
        that the second answer can't copy it. Exercises show the test's own message, as Aider does.

        Raises:
            SandboxError: the task has no sandbox.
        """
        said = [message["content"] for message in messages if message["role"] == "assistant"]
        if not 0 < len(said) < self._turns:
            return None
        answer = self._read(example, said[-1])
        if answer.fault:
            report = answer.fault
        else:
            judgement = await self._judge(example, answer.code)
            if isinstance(judgement, Invalid):
                return None
            failed = [result for result in judgement.results if not result.passed]
            if judgement.loads and not failed:
                return None
            report = judgement.fault or "\n".join(map(_told, failed[:_REPORTED]))
        what = "file" if self._exercise else "function"
        ask = f"Answer with the whole corrected {what} in one ```python block."
        return [{"role": "user", "content": f"That fails:\n{report}\n\n{ask}"}]

    async def failures(self, example: Example, text: str) -> str | Invalid:
        """All that an answer to an exercise fails: each test's own message, and its source.

        For evaluations that tell as much as Aider does. `respond` tells the first three in a line
        each, which is what has been trained with.

        Returns:
            `Invalid` when the answer could not be judged.

        Raises:
            SandboxError: the task has no sandbox, or its examples are no exercises.
        """
        answer = self._read(example, text)
        if answer.fault:
            return answer.fault
        if not isinstance(self._judges, ExerciseJudge):
            raise SandboxError("failures are told of exercises only, and with a sandbox")
        return await self._judges.failures(example, answer.code)

    async def validate(self, examples: Sequence[Example]) -> ValidationReport:
        """See `tasks.validation.validate`."""
        return await validation.validate(self, examples)


async def _prepared(judges: FunctionJudge | ExerciseJudge, example: Example) -> None:
    await judges.prepare(example)


def _told(result: TestResult) -> str:
    wanted = f" ({result.text})" if result.visible else ""
    return f"- {result.call} {result.actual}{wanted}"[:400]


_IMPOSTOR = """class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 0
"""


def _broken_functions(example: Example) -> dict[str, str]:
    entry = example.fields["entry_point"]
    head = f"def {entry}(*args, **kwargs):\n    "
    variants = {
        "raises": f"{head}raise ValueError('no')",
        "exits": f"{head}import os; os._exit(0)",
        "exits at import": f"import sys\n{head}return 0\nsys.exit(0)",
        "equals everything": f"{_IMPOSTOR}\n{head}return Anything()",
        "defines something else": f"def not_{entry}():\n    return 0",
    }
    none_is_right = all(
        isinstance(check, SplitCheck) and check.relation != "judge" and check.holds(None)
        for check in checks_of(example)
    )
    if not none_is_right:
        variants["returns None"] = f"{head}return None"
    return variants
