"""What the trainer learns on: tasks with their examples, and the rows that TRL is handed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from astor_rl.data.difficulty import estimate
from astor_rl.engines.preparation import PreparedTask
from astor_rl.engines.trl.upstream import Dataset
from astor_rl.errors import ConfigError, DataError
from astor_rl.tasks.base import Task
from astor_rl.types import Example, Message

COLUMN = "astor"
"""The one column, beside TRL's `prompt`, that says which task and example a row is."""


@dataclass(frozen=True, slots=True)
class TaskData:
    """One task with its examples.

    Attributes:
        name: unique; for metrics and receipts.
        task: makes prompts and judges completions.
        examples: to train on, at least one, keys unique.
        eval_examples: what `evaluate()` looks at.
        ratio: unnormalised base-mixture weight, > 0.
        beta: base KL coefficient, >= 0; None: the trainer's `args.beta`.
        chat: prompts are conversations, rendered by the chat template; False hands TRL the text
            of the only message, as scripts with text prompts do.
        num_generations, max_completion_length: None, or what the trainer's `args` say. TRL has
            one of each for all tasks; another value is refused at the start.
    """

    name: str
    task: Task
    examples: Sequence[Example]
    eval_examples: Sequence[Example] = ()
    ratio: float = 1.0
    beta: float | None = None
    chat: bool = True
    num_generations: int | None = None
    max_completion_length: int | None = None

    @classmethod
    def from_rows(
        cls, name: str, task: Task, rows: Iterable[Mapping[str, Any]], **options: Any
    ) -> Self:
        """From rows as the task documents them: a `datasets.Dataset` or any other iterable.

        A row that was met before is left out. `options` are the other attributes. As in a run
        file, a `difficulty` in [0, 1] is no part of what tells rows apart; without one it is
        estimated from sizes. Words in a column of that name are one like any other.

        Raises:
            DataError: a difficulty is a number outside [0, 1], or a field is missing or of the
                wrong type; names the row and the field.
        """
        unique: dict[str, Example] = {}
        for number, row in enumerate(rows):
            example = _example(task, row, f"{name}: row {number}")
            unique.setdefault(example.key, example)
        return cls(name, task, tuple(unique.values()), **options)

    @classmethod
    def from_prepared(cls, prepared: PreparedTask) -> Self:
        """From a run file's task, as `astor_rl.engines.preparation.prepare_tasks` gives it."""
        block = prepared.config
        return cls(
            name=prepared.name,
            task=prepared.task,
            examples=prepared.train,
            eval_examples=prepared.validation,
            ratio=block.ratio,
            beta=block.beta,
            num_generations=block.num_generations,
            max_completion_length=block.max_completion_length,
        )

    def prompt(self, example: Example) -> list[Message] | str:
        """The prompt in the form that TRL is handed.

        Raises:
            ConfigError: `chat` is False and the prompt is more than one message.
        """
        messages = self.task.prompt(example)
        if self.chat:
            return messages
        if len(messages) != 1:
            raise ConfigError(
                f"task {self.name!r} has chat=False, but the prompt of {example.origin} has "
                f"{len(messages)} messages; it must have one"
            )
        return messages[0]["content"]


def _example(task: Task, row: Mapping[str, Any], origin: str) -> Example:
    fields = dict(row)
    difficulty = fields.get("difficulty")
    if difficulty is None:  # as `datasets` fills in what a row lacks
        fields.pop("difficulty", None)
    elif isinstance(difficulty, int | float) and not isinstance(difficulty, bool):
        if not 0 <= difficulty <= 1:
            raise DataError(
                f"{origin}: difficulty is {difficulty!r}; a number there must be in [0, 1]"
            )
        del fields["difficulty"]
    else:
        difficulty = None
    if difficulty is None:
        difficulty = estimate(task.kind, fields)
    return replace(task.example(fields, origin=origin), difficulty=float(difficulty))


class Library:
    """Every example of every task, by task and key."""

    def __init__(self, tasks: Sequence[TaskData]) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.names = list(self.tasks)
        self._examples = {
            (task.name, example.key): example
            for task in tasks
            for example in (*task.examples, *task.eval_examples)
        }

    def example(self, task: str, key: str) -> Example:
        """One example."""
        return self._examples[task, key]

    def row(self, task: str, key: str) -> dict[str, Any]:
        """One example as TRL's row."""
        prompt = self.tasks[task].prompt(self._examples[task, key])
        return {"prompt": prompt, COLUMN: [task, key]}

    def placeholder(self, prompts_per_step: int) -> Dataset:
        """A training set of the right length: what an epoch is, and nothing else, hangs on it."""
        count = sum(len(task.examples) for task in self.tasks.values())
        return Dataset.from_dict({"prompt": [""] * max(count, prompts_per_step)})

    def evaluation(self) -> Dataset | None:
        """The examples of `evaluate()`, or None when there are none."""
        rows = [
            self.row(task.name, example.key)
            for task in self.tasks.values()
            for example in task.eval_examples
        ]
        return Dataset.from_list(rows) if rows else None
