"""From a run's `[[tasks]]` to examples ready to train on: load, split, clean, check, render.

Shared by every engine. What it drops, it counts and reports; nothing vanishes silently.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from astor_rl.config import RunConfig, TaskConfig, as_list
from astor_rl.data.decontaminate import HeldOutIndex
from astor_rl.data.rows import Row
from astor_rl.data.selection import select
from astor_rl.data.sources import load_source
from astor_rl.data.splits import split_all
from astor_rl.errors import AstorError, DataError
from astor_rl.plan import TaskSpec
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks.base import Task
from astor_rl.tasks.registry import make_task
from astor_rl.types import Example, Message

Render = Callable[[Sequence[Message]], tuple[int, ...]]
Note = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PreparedTask:
    """One task with its examples.

    Attributes:
        config: its `[[tasks]]` block.
        task: judges rollouts.
        train, validation, test: examples; no function or commit is in two of them, in this task
            or across tasks.
        prompts: by example key, the rendered prompt's token ids and its messages.
        dropped: how many examples were left out, by reason.
    """

    config: TaskConfig
    task: Task
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    prompts: Mapping[str, tuple[tuple[Message, ...], tuple[int, ...]]]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name in the run."""
        return self.config.name

    def split(self, name: str) -> tuple[Example, ...]:
        """`train`, `validation` or `test`."""
        examples: tuple[Example, ...] = getattr(self, name)
        return examples


@dataclass(slots=True)
class _Rows:
    """One task's rows by split, while they are being sorted out."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    dropped: dict[str, int] = field(default_factory=dict)
    loaded: int = 0
    """How many rows the training source gave."""
    cut: dict[str, int] = field(default_factory=dict)
    """How many of them went to validation and to test."""


def prepare_tasks(
    config: RunConfig,
    *,
    sandbox: SandboxPool,
    render: Render,
    base_dir: Path,
    note: Note = lambda text: None,
    progress: Progress = lambda stage, done, total: None,
) -> list[PreparedTask]:
    """Load every task's examples.

    Args:
        config: the run.
        sandbox: where mining verifies and tasks judge.
        render: conversation to prompt token ids (the model's chat template).
        base_dir: relative paths in sources start here, and so do modules of one's own tasks.
        note: takes one line for people per thing worth knowing.
        progress: told (what, done, total) of what is slow, such as mining.

    Raises:
        DataError: a source, row or field is wrong; a task ends with no training example; a prompt
            is over `max_prompt_length` and `overlong` is "error".
    """
    if any(":" in block.task for block in config.tasks):
        _make_importable(base_dir)
    tasks = {block.name: _make(block, sandbox) for block in config.tasks}
    rows = {
        block.name: _load(block, config, sandbox, base_dir, note, progress)
        for block in config.tasks
    }
    _split(rows, config)
    _clean(rows, config, base_dir=base_dir, note=note)
    return [
        _finish(block, tasks[block.name], rows[block.name], config, render, note)
        for block in config.tasks
    ]


def _make_importable(folder: Path) -> None:
    """Modules of one's own tasks may lie beside the run file, as with `python run.py`.

    For good: what they import when they are called lies there too.
    """
    path = str(folder.resolve())
    if path not in sys.path:
        sys.path.insert(0, path)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors raised on purpose keep their class and begin with where."""
    try:
        yield
    except AstorError as error:
        raise type(error)(f"{where}: {error}") from error


def _make(block: TaskConfig, sandbox: SandboxPool) -> Task:
    with _named(f"task {block.name!r}"):
        return make_task(block.task, block.options, sandbox)


def _load(
    block: TaskConfig,
    config: RunConfig,
    sandbox: SandboxPool,
    base_dir: Path,
    note: Note,
    progress: Progress,
) -> _Rows:
    def load(specs: list[str], split: str, key: str) -> list[Row]:
        rows: list[Row] = []
        where = f"task {block.name!r}, {key}"
        for spec in specs:
            note(f"{block.name}: loading {split} examples from {spec}")
            with _named(where):
                found = load_source(
                    spec,
                    task_kind=block.task,
                    base_dir=base_dir,
                    sandbox=sandbox,
                    columns=block.columns,
                    progress=progress,
                )
            rows += [replace(row, place=f"{where}: {row.place or row.origin}") for row in found]
        return rows

    loaded = _Rows(
        train=load(block.sources, "train", "source"),
        validation=load(as_list(block.validation_source), "validation", "validation_source"),
        test=load(as_list(block.test_source), "test", "test_source"),
    )
    if not loaded.train:
        raise DataError(f"task {block.name!r}: its source {block.source!r} holds no examples")
    loaded.loaded = len(loaded.train)
    return loaded


def _split(rows: Mapping[str, _Rows], config: RunConfig) -> None:
    """Cut validation and test examples out of the training rows where no source gives them."""
    given = {
        split: all(getattr(task, split) for task in rows.values())
        for split in ("validation", "test")
    }
    splits = split_all(
        {name: task.train for name, task in rows.items()},
        seed=config.data_seed,
        validation=0.0 if given["validation"] else config.data.validation_share,
        test=0.0 if given["test"] else config.data.test_share,
    )
    for name, task in rows.items():
        task.train = list(splits[name].train)
        for split in ("validation", "test"):
            cut = list(getattr(splits[name], split))
            if not getattr(task, split):
                setattr(task, split, cut)
                task.cut[split] = len(cut)
            elif cut:
                # They stay out of training: another task may be judged on the same functions.
                task.dropped[f"held out for other tasks ({split})"] = len(cut)
        if splits[name].left_out:
            task.dropped["kept for test"] = len(splits[name].left_out)


def _clean(rows: Mapping[str, _Rows], config: RunConfig, *, base_dir: Path, note: Note) -> None:
    """Drop training rows that overlap what they will be judged on, over all tasks at once."""
    held_out = [row for task in rows.values() for row in (*task.validation, *task.test)]
    for spec in config.data.decontaminate:
        with _named("data.decontaminate"):
            held_out += load_source(spec, task_kind="benchmark", base_dir=base_dir)
    index = HeldOutIndex(held_out)
    for name, task in rows.items():
        report = index.sift(task.train)
        if report.dropped:
            note(f"{name}: {len(report.dropped)} training examples overlap held-out ones: dropped")
            task.dropped["overlaps held-out"] = len(report.dropped)
        task.train = list(report.kept)


def _finish(
    block: TaskConfig, task: Task, rows: _Rows, config: RunConfig, render: Render, note: Note
) -> PreparedTask:
    prompts: dict[str, tuple[tuple[Message, ...], tuple[int, ...]]] = {}
    dropped = dict(rows.dropped)

    def examples(split: str, wanted: Sequence[Row]) -> list[tuple[Row, Example]]:
        kept: dict[str, tuple[Row, Example]] = {}
        for row in wanted:
            example = _example(task, row)
            if example.key in kept:
                dropped["repeated"] = dropped.get("repeated", 0) + 1
                continue
            messages = tuple(task.prompt(example))
            ids = render(messages)
            if len(ids) > config.max_prompt_length:
                if config.overlong == "error":
                    raise DataError(
                        f"{row.place}: the prompt has {len(ids)} tokens, max_prompt_length is "
                        f'{config.max_prompt_length}; raise it or set overlong = "drop"'
                    )
                dropped[f"overlong ({split})"] = dropped.get(f"overlong ({split})", 0) + 1
                continue
            kept[example.key] = (row, example)
            prompts[example.key] = (messages, ids)
        return list(kept.values())

    train = _choose(examples("train", rows.train), block, config.data_seed)
    dropped_here = dict(dropped)
    # Before anything is said of their number: a field that is missing is the better reason.
    validation = examples("validation", rows.validation)
    test = examples("test", rows.test)
    if not train:
        raise DataError(f"task {block.name!r}: {_none_left(rows, dropped_here)}")
    prepared = PreparedTask(
        block,
        task,
        train,
        tuple(example for _, example in validation),
        tuple(example for _, example in test),
        prompts,
        dropped,
    )
    note(
        f"{block.name}: {len(train)} train, {len(prepared.validation)} validation, "
        f"{len(prepared.test)} test" + "".join(f", {count} {why}" for why, count in dropped.items())
    )
    return prepared


def difficulties(examples: Sequence[Example]) -> tuple[float, ...] | None:
    """Of a task's examples, unknown ones in the middle; None when all are unknown."""
    if all(example.difficulty is None for example in examples):
        return None
    return tuple(0.5 if e.difficulty is None else e.difficulty for e in examples)


def task_specs(
    config: RunConfig,
    keys: Mapping[str, Sequence[str]],
    difficulty: Mapping[str, Sequence[float] | None],
) -> list[TaskSpec]:
    """A run's tasks as the coordinator knows them.

    Args:
        config: the run.
        keys: the training prompts' by task.
        difficulty: theirs, in [0, 1], for tasks where it is known.
    """
    return [
        TaskSpec(
            name=task.name,
            keys=tuple(keys[task.name]),
            ratio=task.ratio,
            beta=config.beta if task.beta is None else task.beta,
            num_generations=task.num_generations or config.num_generations,
            max_tokens=task.max_completion_length or config.max_completion_length,
            difficulty=difficulty.get(task.name),
        )
        for task in config.tasks
    ]


def _example(task: Task, row: Row) -> Example:
    # The guessed difficulty is ours, not the row's: it is no part of the content.
    fields = {name: value for name, value in row.fields.items() if name != "difficulty"}
    try:
        example = task.example(fields, origin=row.origin, unit=row.unit)
    except AstorError as error:
        said = str(error).removeprefix(f"{row.origin}: ")
        raise type(error)(f"{row.place}: {said}") from error
    return replace(example, difficulty=row.difficulty)


def _none_left(rows: _Rows, dropped: Mapping[str, int]) -> str:
    """Why nothing is left to train on."""
    held_out = sum(rows.cut.values())
    if held_out == rows.loaded:
        shares = " / ".join(f"data.{split}_share" for split, count in rows.cut.items() if count)
        return (
            f"{held_out} row{'s' * (held_out > 1)}, all held out for validation or test; "
            f"lower {shares}"
        )
    reasons = {"held out for validation or test": held_out} | dict(dropped)
    said = ", ".join(f"{count} {why}" for why, count in reasons.items() if count)
    return f"no training example is left of {rows.loaded} ({said})"


def _choose(
    candidates: Sequence[tuple[Row, Example]], block: TaskConfig, seed: int
) -> tuple[Example, ...]:
    """At most `max_examples`, units taking turns; in the order of `select`."""
    by_row = {id(row): example for row, example in candidates}
    rows = [row for row, _ in candidates]
    chosen = select(rows, max_examples=block.max_examples, order=block.order, seed=seed)
    return tuple(by_row[id(row)] for row in chosen)
