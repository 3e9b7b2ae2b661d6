"""Arguments and options that several commands take, and how lines are printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The run file (TOML), or a run's config.json.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder (its output_dir).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, as in [bold]seed=1[/] or [bold]tasks.NAME.ratio=2[/]. Repeatable.",
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and other packages' warnings.")
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the live display.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(line: str) -> None:
    """Print a line of ours, in which `±` is the only character beyond ASCII."""
    from astor_rl.report.text import shows_blocks

    typer.echo(line if shows_blocks(sys.stdout) else line.replace("±", "+-"))
