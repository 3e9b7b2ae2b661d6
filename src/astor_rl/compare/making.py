"""Units made by the rooms that train, merge and evaluate, each in a process of its own."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from astor_rl.compare import gpus
from astor_rl.compare.records import evaluation_file, is_finished
from astor_rl.compare.running import Outcome, Runner
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.units import AFTER, BEFORE, FIRST, LAST, Unit
from astor_rl.compare.workers import Workshop
from astor_rl.config import EvalConfig
from astor_rl.engines.preparation import PreparedTask
from astor_rl.errors import DataError, StateError
from astor_rl.evaluate.heldout import TaskResult
from astor_rl.report.atomic import replacing, write_json
from astor_rl.report.console import Console, make_console
from astor_rl.report.failures import INTERRUPTED, failure
from astor_rl.report.lock import FolderLock

PRELOAD = (
    "astor_rl.compare.making",
    "astor_rl.engines.local.merging",
    "astor_rl.engines.local.evaluating",
    "astor_rl.report.versions",
    "peft",
)
"""What a unit's process needs and takes seconds to load."""
_PATIENCE_S = 20.0
"""How long a unit waits for a process of a killed comparison to let go of its folder."""


def make_units(units: Sequence[Unit], comparison: CompareConfig, *, console: Console) -> Outcome:
    """Make every unit that isn't finished.

    Raises:
        StateError: another process compares here.
        DependencyError: the machine's GPUs can't be counted.
    """
    folder = Path(comparison.output_dir)
    lock = FolderLock(folder / "compare.lock")
    jobs = comparison.jobs
    try:
        several = jobs > 1 and not all(is_finished(unit) for unit in units)
        devices = gpus.visible() if several else gpus.Gpus()
        if said := gpus.remark(devices, jobs):
            console.note(said)
        workshop = Workshop(make_unit, preload=PRELOAD, places=gpus.divide(devices, jobs))
        return Runner(units, workshop=workshop, jobs=jobs, console=console).run()
    finally:
        lock.release()


def make_unit(unit: Unit) -> int:
    """Make one unit, in a process of its own; says why if it fails, and returns an exit code."""
    try:
        if unit.kind == "merge":
            _merge(unit)
        else:
            _train(unit)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a traceback in a unit's log would hide its last line
        found = failure(error, folder=unit.folder)
        sys.stderr.write(f"error: {found.line}\n")
        return found.code
    return 0


def _train(unit: Unit) -> None:
    from astor_rl.engines.local.run import train

    _wait_for_folder(unit.folder)
    for source in unit.sources:
        # The start's weights are this run's: what it scores before RL is known. Of a start that was
        # imported there is no file; the run evaluates them itself.
        for name in (BEFORE, FIRST):
            if (evaluated := source / "eval" / f"{name}.json").is_file():
                _copy(evaluated, evaluation_file(unit, name))
    train(
        unit.config,
        make_console=functools.partial(make_console, live=False),
        resume=True,
        base_dir=unit.base_dir,
        check=_check_judged,
    )


def _check_judged(tasks: Sequence[PreparedTask]) -> None:
    """Refuse, before anything is trained, examples on which nothing could be judged in the end."""
    for task in tasks:
        for split in ("validation", "test"):
            if not task.split(split):
                raise DataError(
                    f"task {task.name!r} has no {split} examples, which a comparison needs; "
                    + _how_to_get(split, task)
                )


def _how_to_get(split: str, task: PreparedTask) -> str:
    source = getattr(task.config, f"{split}_source")
    if source is None:
        return f"raise data.{split}_share or give it a {split}_source"
    lost = ", ".join(f"{count} {why}" for why, count in task.dropped.items())
    return f"of its {split}_source {source!r} nothing is left ({lost or 'it is empty'})"


def _wait_for_folder(folder: Path) -> None:
    """A killed comparison's processes end themselves, which may take a moment."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return FolderLock(folder / "run.lock").release()
        except StateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        with replacing(target) as partial:
            shutil.copyfile(source, partial)


def _merge(unit: Unit) -> None:
    from astor_rl.engines.local.evaluating import Target, evaluate_splits
    from astor_rl.engines.local.merging import RECORD, merge_runs
    from astor_rl.engines.local.run import FINAL
    from astor_rl.evaluate.merging import merge_options

    how = unit.merge
    if how is None:
        raise TypeError(f"unit {unit.name} is a merge of nothing")
    model = unit.folder / FINAL
    with make_console(live=False) as console:
        if not (model / RECORD).is_file():  # it is written last
            shutil.rmtree(model, ignore_errors=True)
            options = merge_options(
                how.method, density=how.density, scale=how.scale, seed=unit.seed
            )
            merge_runs(unit.sources, model, options, console=console, whole=how.whole)
        target = Target(str(model), unit.config, unit.base_dir)
        results = evaluate_splits(target, splits=["validation", "test"], console=console)
    for name, split in ((LAST, "validation"), (AFTER, "test")):
        _save(evaluation_file(unit, name), results[split], unit.config.eval, split)


def _save(path: Path, results: dict[str, TaskResult], options: EvalConfig, split: str) -> None:
    """An evaluation in the form of a run's own."""
    settings = options.settings(split)
    tasks = {name: result.as_dict() for name, result in results.items()}
    write_json(path, {"name": path.stem, "step": None, "settings": settings, "tasks": tasks})
