"""`astor compare`: plan, take up, make, set side by side, hand on; and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from astor_rl.compare.analysis import Analysis, analyse
from astor_rl.compare.document import Status, document
from astor_rl.compare.exchange import (
    check_export,
    check_one_making,
    check_whole,
    export_results,
    import_results,
)
from astor_rl.compare.making import make_units
from astor_rl.compare.records import check_unchanged, is_finished
from astor_rl.compare.results import codes
from astor_rl.compare.running import Outcome
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.tables import markdown, render
from astor_rl.compare.units import Unit, needed_for, plan_units
from astor_rl.report.atomic import write_json, write_text
from astor_rl.report.console import make_console
from astor_rl.report.failures import FAILED, INTERRUPTED
from astor_rl.report.lock import FolderLock


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
            outcome = make_units(to_do, comparison, console=console)
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
