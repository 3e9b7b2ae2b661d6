"""`engine = "verl"`: training through Ray, and the command for those who launch it themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astor_rl.cli.errors import one_line_errors
from astor_rl.errors import ConfigError

if TYPE_CHECKING:
    from astor_rl.config import RunConfig


def train(run: RunConfig, *, base_dir: Path, resume: bool) -> None:
    """Train a run whose engine is verl."""
    from astor_rl.engines.verl.run import train as train_with_verl

    train_with_verl(run, resume=resume, base_dir=base_dir, note=_note)


def export_verl(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The run file (TOML), or a run's config.json.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key. Repeatable."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a run's data for verl and print the command that trains on it, for Slurm or KubeRay."""
    with one_line_errors(debug=debug):
        from astor_rl.config import load_config

        run = load_config(config, overrides)
        if run.engine != "verl":
            raise ConfigError(
                f'engine is {run.engine!r}; export-verl is for engine = "verl": set it in '
                f"{config.name}, or add --set engine=verl"
            )
        from astor_rl.engines.verl.hydra import check, compose
        from astor_rl.engines.verl.run import arguments, command, export, has_checkpoint

        given = arguments(run)
        composed = compose(given)
        check(composed, run)
        begun = has_checkpoint(Path(composed.trainer.default_local_dir))
        export(run, base_dir=base_dir_of(config), note=_note, begun=begun)
        typer.echo(command(given))


def base_dir_of(config: Path) -> Path:
    """Where a run file's relative sources start: beside it, or where its run was started."""
    from astor_rl.report.run_folder import holds_run, read_base_dir

    folder = config.parent
    return read_base_dir(folder) if holds_run(folder) else folder


def _note(line: str) -> None:
    typer.echo(line, err=True)
