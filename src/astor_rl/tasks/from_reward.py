"""A TRL-style reward function as a task, so that existing ones keep working."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal, Self

from astor_rl.errors import AstorError, ConfigError, DataError, RewardError
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks import validation
from astor_rl.tasks.base import Pair, ValidationReport
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.guard import described
from astor_rl.types import Example, Invalid, Message, Score

RewardFunction = Callable[..., list[float | None] | Awaitable[list[float | None]]]
"""`f(prompts, completions, **columns) -> list[float | None]`, plain or async, as in TRL.

A one-dimensional array or tensor of rewards will do as well.
"""

Scale = tuple[float, float]
_BESIDE: Final = frozenset(("unit", "difficulty"))


class RewardTask:
    """Wraps `f(prompts, completions, **columns)`.

    A row is any mapping with a prompt column (text, or chat messages); every other column is
    handed to the function by name, as a list aligned with `completions`. So are the `unit` and
    `difficulty` of an example that a source gave them, to a function that has a parameter for them
    or takes any: sources give them to every row. They are no part of its key. Like TRL,
    completions are texts when the prompt is text and one-message lists when it is a
    conversation. A `None` reward means that the function has no verdict: the rollout is
    `Invalid`.

    Subclass it, or make one with `from_reward`. Rewards are mapped from `scale` to [0, 1].

    Verdict: `detected-only`; nothing is known about the function.
    """

    kind = "reward"
    verdict = "detected-only"

    def __init__(
        self,
        function: RewardFunction,
        *,
        outcome: Scale | Literal["unit"] = "unit",
        prompt_column: str = "prompt",
        answer_column: str | None = None,
        format_function: RewardFunction | None = None,
        kind: str | None = None,
    ) -> None:
        """Wrap a reward function.

        Args:
            function: gives the outcome reward.
            outcome: the (worst, best) rewards that become 0 and 1; `unit` is (0, 1).
            prompt_column: the column with the question.
            answer_column: the column with a reference answer, if the data has one; without it
                the task can't be warmed up or validated.
            format_function: gives the format reward in [0, 1]; without it that is always 1.
            kind: the task's name; by default the function's.

        Raises:
            ConfigError: `outcome` isn't two different finite numbers.
        """
        scale = (0.0, 1.0) if outcome == "unit" else outcome
        if not (all(map(math.isfinite, scale)) and scale[0] < scale[1]):
            raise ConfigError(f"outcome scale is {scale!r}; it must be (worst, best), worst < best")
        self.kind = kind or str(getattr(function, "__name__", type(function).__name__))
        self._function = function
        self._format = format_function
        self._scale = scale
        self._prompt_column = prompt_column
        self._answer_column = answer_column

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sandbox: SandboxPool | None) -> Self:
        """Not possible: a function isn't plain configuration.

        Raises:
            ConfigError: always; name a `module:attribute` that holds the wrapped task instead.
        """
        raise ConfigError("a reward function can't be built from options; use task = 'module:name'")

    def example(self, row: Mapping[str, Any], *, origin: str, unit: str | None = None) -> Example:
        """Check a row; its unit is the example itself unless given.

        Raises:
            DataError: the prompt (or answer) column is missing, or isn't a text or messages.
        """
        if isinstance(row.get(self._prompt_column), list):
            for place, turn in enumerate(row[self._prompt_column]):
                where = f"{origin}: message {place} of {self._prompt_column!r}"
                if not isinstance(turn, Mapping):
                    raise DataError(f"{where} is {type(turn).__name__}; it must be a mapping")
                validation.require(turn, "role", str, where)
                validation.require(turn, "content", str, where)
        else:
            validation.require(row, self._prompt_column, str, origin)
        if self._answer_column is not None:
            validation.require(row, self._answer_column, str, origin)
        key = content_key(self.kind, row)
        return Example(key, dict(row), origin, unit or key)

    def prompt(self, example: Example) -> list[Message]:
        """The prompt column: messages as they are, a text as one user message."""
        value = example.fields[self._prompt_column]
        if isinstance(value, str):
            return [{"role": "user", "content": value}]
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]

    def answer(self, example: Example) -> str:
        """The answer column.

        Raises:
            DataError: the task has none.
        """
        if self._answer_column is None:
            raise DataError(f"{example.origin}: task {self.kind!r} has no answer_column")
        return str(example.fields[self._answer_column])

    def broken(self, example: Example) -> Mapping[str, str]:
        """An empty answer: all that can be said of an unknown reward."""
        return {"empty": ""}

    def ceiling(self, example: Example) -> float:
        """1, the best reward of the scale."""
        return 1.0

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        """Call the function once on the whole batch (twice with a format function).

        Raises:
            RewardError: it raised an error (said with its file and line), or returned the wrong
                number of rewards, or one that isn't a number or lies outside the scale.
        """
        if not pairs:
            return []
        outcomes = await self._call(self._function, pairs, self._scale)
        formats: list[float | None] = [1.0] * len(pairs)
        if self._format is not None:
            formats = await self._call(self._format, pairs, (0.0, 1.0))
        return [
            Invalid(f"{self.kind} gave no reward")
            if outcome is None or form is None
            else Score(outcome, form)
            for outcome, form in zip(outcomes, formats, strict=True)
        ]

    async def _call(
        self, function: RewardFunction, pairs: Sequence[Pair], scale: Scale
    ) -> list[float | None]:
        beside = _taken(function)
        rows = [_columns(example, beside) for example, _ in pairs]
        columns = {name: [row.get(name) for row in rows] for name in _names(rows)}
        columns.pop(self._prompt_column, None)
        prompts = [row[self._prompt_column] for row in rows]
        completions: list[Any] = [
            rollout.text
            if isinstance(prompt, str)
            else [{"role": "assistant", "content": rollout.text}]
            for prompt, (_, rollout) in zip(prompts, pairs, strict=True)
        ]
        try:
            # A plain function may block (a model, a compiler): a thread keeps the loop free.
            rewards: Any = await asyncio.to_thread(function, prompts, completions, **columns)
            if inspect.isawaitable(rewards):
                rewards = await rewards
        except AstorError:
            raise
        except (Exception, SystemExit) as error:  # what a command line's parser raises
            raise RewardError(
                f"{self.kind} raised {described(error)}; return None for what can't be judged"
            ) from error
        if hasattr(rewards, "tolist"):  # an array or tensor, whose numbers aren't Python's
            rewards = rewards.tolist()
        if not isinstance(rewards, Sequence) or len(rewards) != len(pairs):
            raise RewardError(
                f"{self.kind} gave {rewards!r:.80} for {len(pairs)} completions; "
                "it must be a list with a number or None for each"
            )
        return [self._scaled(r, scale, pair[0]) for r, pair in zip(rewards, pairs, strict=True)]

    def _scaled(self, reward: Any, scale: Scale, example: Example) -> float | None:
        if reward is None:
            return None
        try:
            value = float(reward)
        except (TypeError, ValueError):
            value = math.nan
        worst, best = scale
        if not worst <= value <= best:
            raise RewardError(
                f"{self.kind} gave {reward!r} for {example.origin}; "
                f"it must be a number in [{worst}, {best}]"
            )
        return (value - worst) / (best - worst)

    async def respond(self, example: Example, messages: Sequence[Message]) -> list[Message] | None:
        """None: one turn."""
        return None

    async def validate(self, examples: Sequence[Example]) -> ValidationReport:
        """See `tasks.validation.validate`; needs `answer_column`."""
        return await validation.validate(self, examples)


def _taken(function: RewardFunction) -> frozenset[str]:
    """Which columns that no row of the user's own need have are wanted."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return _BESIDE
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return _BESIDE
    return _BESIDE.intersection(parameters)


def _columns(example: Example, beside: Collection[str]) -> Mapping[str, Any]:
    """The row, and what the source that it was loaded from keeps beside it."""
    kept = {
        "unit": None if example.unit == example.key else example.unit,
        "difficulty": example.difficulty,
    }
    known = {name: v for name, v in kept.items() if name in beside and v is not None}
    return known | dict(example.fields)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every column of the batch, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def from_reward(
    function: RewardFunction,
    *,
    outcome: Scale | Literal["unit"] = "unit",
    prompt_column: str = "prompt",
    answer_column: str | None = None,
    format_function: RewardFunction | None = None,
    kind: str | None = None,
) -> RewardTask:
    """A task of a reward function; see `RewardTask` for the arguments.

    Raises:
        ConfigError: `outcome` isn't two different finite numbers.
    """
    return RewardTask(
        function,
        outcome=outcome,
        prompt_column=prompt_column,
        answer_column=answer_column,
        format_function=format_function,
        kind=kind,
    )
