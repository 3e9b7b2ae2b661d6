"""What `astor validate` does: load a run's data as training would, put every task to the test."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

from astor_rl.config import RunConfig
from astor_rl.engines.preparation import PreparedTask, prepare_tasks
from astor_rl.errors import RewardError
from astor_rl.report.console import Console
from astor_rl.sandbox.opening import open_pool
from astor_rl.tasks.base import ValidationReport
from astor_rl.tasks.guard import described


@dataclass(frozen=True, slots=True)
class Checked:
    """One task's examples by split, and what became of a sample of them."""

    name: str
    verdict: str
    train: int
    validation: int
    test: int
    report: ValidationReport


def validate_tasks(
    config: RunConfig, *, examples: int, base_dir: Path, console: Console
) -> list[Checked]:
    """Score the reference answer and the broken ones of a random sample of each task.

    No model is needed, so prompts are not measured against `max_prompt_length`.

    Args:
        config: the run.
        examples: how many of each task, from all its splits.
        base_dir: relative sources start here.
        console: shows what is going on.

    Raises:
        AstorError: the data or the sandbox is wrong.
    """
    with open_pool(config.sandbox) as sandbox:
        tasks = prepare_tasks(
            config,
            sandbox=sandbox,
            render=lambda _: (),
            base_dir=base_dir,
            note=console.note,
            progress=console.progress,
        )
        return [_check(task, examples, config.seed) for task in tasks]


def _check(task: PreparedTask, examples: int, seed: int) -> Checked:
    pool = [*task.train, *task.validation, *task.test]
    chosen = random.Random(f"{seed}:{task.name}").sample(pool, min(examples, len(pool)))
    try:
        report = asyncio.run(task.task.validate(chosen))
    except SystemExit as error:  # else the command would end here, with a status of its own
        raise RewardError(f"task {task.name!r}: {described(error)} while validating") from error
    return Checked(
        name=task.name,
        verdict=task.task.verdict,
        train=len(task.train),
        validation=len(task.validation),
        test=len(task.test),
        report=report,
    )
