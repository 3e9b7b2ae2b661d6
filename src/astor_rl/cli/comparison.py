"""`astor compare`: the units of a comparison, made by the rooms that train, merge and evaluate."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from astor_rl.cli.errors import one_line_errors
from astor_rl.compare import gpus
from astor_rl.compare.analysis import Analysis, analyse
from astor_rl.compare.document import Status, document
from astor_rl.compare.exchange import (
    check_export,
    check_one_making,
    check_whole,
    export_results,
    import_results,
)
from astor_rl.compare.records import check_unchanged, evaluation_file, is_finished
from astor_rl.compare.results import codes
from astor_rl.compare.running import Outcome, Runner
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.tables import markdown, render
from astor_rl.compare.units import AFTER, BEFORE, FIRST, LAST, Unit, needed_for, plan_units
from astor_rl.compare.workers import Workshop
from astor_rl.config import EvalConfig
from astor_rl.engines.preparation import PreparedTask
from astor_rl.errors import DataError, StateError
from astor_rl.evaluate.heldout import TaskResult
from astor_rl.report.atomic import replacing, write_json, write_text
from astor_rl.report.console import Console, make_console
from astor_rl.report.failures import FAILED, INTERRUPTED
from astor_rl.report.lock import FolderLock

_PRELOAD = ("astor_rl.cli.merging", "astor_rl.cli.evaluation", "astor_rl.report.versions", "peft")
"""What a unit's process needs and takes seconds to load."""
_PATIENCE_S = 20.0
"""How long a unit waits for a process of a killed comparison to let go of its folder."""


def compare_arms(
    comparison: CompareConfig,
    *,
    base_dir: Path,
    only: Sequence[str],
    train: bool,
    live: bool | None,
    quiet: bool,
    imports: Sequence[Path] = (),
    export: Path | None = None,
) -> int:
    """Make what is missing, then set the arms side by side.

    Args:
        comparison: the compare file.
        base_dir: its folder.
        only: arms to make now, with what they need; empty: all. The report is of all.
        train: False only reports what is finished, also while another process makes the rest.
        live, quiet: see `make_console`.
        imports: files of results that were made elsewhere, taken up first.
        export: where the results of all finished units go in the end.

    Returns:
        The command's exit code.

    Raises:
        StateError: a unit that has begun would be another one now, or another process compares
            here.
        AstorError: see `plan_units`.
    """
    units = plan_units(comparison, base_dir=base_dir)
    to_do = needed_for(units, only) if only else units
    if export is not None:
        check_export(export)
    for path in imports:
        _import(path, units, Path(comparison.output_dir))
    check_one_making(units)
    outcome = Outcome()
    if train:
        with make_console(live=live, quiet=quiet) as console:
            check_unchanged(units)
            check_whole(units, to_do)
            outcome = run_units(to_do, comparison, console=console)
    failed = {unit.name: why for unit in units if (why := outcome.failed.get(unit.name))}
    done = sum(is_finished(unit) for unit in units)
    status = Status(done, len(units), failed, codes(units))
    analysis = analyse(comparison, units)
    written = _write(comparison, analysis, status)
    if export is not None and (done or not outcome.interrupted):
        count = export_results(units, export)
        written += f"; {export} has the results of {count} units"
    if outcome.interrupted:
        sys.stderr.write(f"interrupted with {done} of {len(units)} units done ({written}); ")
        sys.stderr.write("the same command goes on, with --report it shows them\n")
        return INTERRUPTED
    render(comparison, analysis, status, sys.stdout)
    typer.echo(f"comparison: {written}")
    for name, why in failed.items():
        sys.stderr.write(f"error: {name} failed: {why}\n")
    return FAILED if failed else 0


def _import(path: Path, units: Sequence[Unit], folder: Path) -> None:
    lock = FolderLock(folder / "compare.lock")
    try:
        found = import_results(path, units)
    finally:
        lock.release()
    already = f", {found.here} were here already" if found.here else ""
    typer.echo(f"{path}: {found.new} units taken up{already}")


def _write(comparison: CompareConfig, analysis: Analysis, status: Status) -> str:
    """Keep what was found; returns where."""
    folder = Path(comparison.output_dir)
    findings, page = folder / "comparison.json", folder / "comparison.md"
    write_json(findings, document(comparison, analysis, status))
    write_text(page, markdown(comparison, analysis, status))
    return f"{findings}, {page}"


def run_units(units: Sequence[Unit], comparison: CompareConfig, *, console: Console) -> Outcome:
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
        workshop = Workshop(make_unit, preload=_PRELOAD, places=gpus.divide(devices, jobs))
        return Runner(units, workshop=workshop, jobs=jobs, console=console).run()
    finally:
        lock.release()


def make_unit(unit: Unit) -> int:
    """Make one unit, in a process of its own; returns an exit code."""
    try:
        with one_line_errors(folder=unit.folder):
            if unit.kind == "merge":
                _merge(unit)
            else:
                _train(unit)
    except typer.Exit as error:
        return error.exit_code
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
    from astor_rl.cli.evaluation import Target, evaluate_splits
    from astor_rl.cli.merging import RECORD, merge_runs
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
