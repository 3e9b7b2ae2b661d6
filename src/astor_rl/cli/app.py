"""The commands: what they take, and which room does the work."""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from astor_rl import __version__
from astor_rl.cli import evaluating
from astor_rl.cli import sandbox as sandbox_commands
from astor_rl.cli import verl as verl_commands
from astor_rl.cli.errors import fail, one_line_errors, sigterm_interrupts
from astor_rl.cli.invocation import command
from astor_rl.cli.options import AsJson, ConfigPath, Debug, Overrides, Plain, RunPath, say
from astor_rl.report.failures import FAILED, USAGE

_EPILOG = """
Begin with [bold]astor doctor[/], then [bold]astor train configs/quickstart.toml[/]: a small model,
four coding tasks, about a quarter of an hour on two CPU cores. Ctrl-C is safe at any moment;
[bold]--resume[/] goes on. Exit codes: 0 done, 1 failed, 2 wrong command or configuration,
130 interrupted.
"""

app = typer.Typer(
    name="astor",
    help="Train one code LLM on several coding tasks by reinforcement learning.",
    epilog=" ".join(_EPILOG.split()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(sandbox_commands.app, name="sandbox")
app.command("export-verl")(verl_commands.export_verl)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"astor-rl {__version__}")
        raise typer.Exit


@app.callback()
def _astor(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in output_dir, if there is one.")
    ] = False,
    plain: Plain = False,
    debug: Debug = False,
) -> None:
    """Train: warm up, evaluate, reinforce, evaluate, and say what changed."""
    with one_line_errors(debug=debug):
        from astor_rl.config import load_config

        run = load_config(config, overrides)
    folder = Path(run.output_dir)
    again = command("train", str(config), *_set_again(overrides), "--resume")
    with one_line_errors(debug=debug, folder=folder, resume=again), sigterm_interrupts():
        # Importing torch takes seconds; the first sign of life must not.
        typer.echo(f"astor {__version__}: {config} -> {folder}")
        base_dir = verl_commands.base_dir_of(config)
        if run.engine == "verl":
            verl_commands.train(run, base_dir=base_dir, resume=resume)
            return
        from astor_rl.engines.local.run import train as train_locally
        from astor_rl.report.console import make_console

        train_locally(
            run,
            make_console=functools.partial(
                make_console, live=False if plain else None, quiet=not debug
            ),
            resume=resume,
            base_dir=base_dir,
        )


def _set_again(overrides: list[str] | None) -> list[str]:
    return [part for override in overrides or [] for part in ("--set", override)]


app.command("eval")(evaluating.evaluate)


@app.command()
def merge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Finished runs from the same weights.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--out", "--output", metavar="DIR", help="A new model folder.")
    ],
    method: Annotated[
        str, typer.Option("--method", help="linear, ties, dare_linear or dare_ties.")
    ] = "linear",
    density: Annotated[
        float, typer.Option("--density", help="Share of each task vector that is kept.")
    ] = 0.2,
    scale: Annotated[float, typer.Option("--scale", help="Factor on the merged vector.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of what DARE drops.")] = 0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Merge all weights, not the LoRA adapters.")
    ] = False,
    plain: Plain = False,
    debug: Debug = False,
) -> None:
    """Merge the final models of several runs (specialists) into one."""
    with one_line_errors(debug=debug):
        from astor_rl.engines.local.merging import RECORD, merge_runs
        from astor_rl.evaluate.merging import merge_options
        from astor_rl.report.console import make_console

        options = merge_options(method, density=density, scale=scale, seed=seed)
        with make_console(live=False if plain else None, quiet=not debug) as console:
            space = merge_runs(runs, output, options, console=console, whole=whole)
        typer.echo(f"merged the {space} of {len(runs)} runs by {method}: {output} ({RECORD})")


@app.command()
def compare(
    config: Annotated[
        Path,
        typer.Argument(metavar="COMPARE", help="The compare file (TOML): arms, seeds, budget."),
    ],
    jobs: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, help="Runs at once, instead of the file's.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM", help="Train this arm now, and what it needs. Repeatable."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report", help="Train nothing: set what is finished side by side.")
    ] = False,
    imports: Annotated[
        list[Path] | None,
        typer.Option(
            "--import", metavar="FILE", help="First take up results made elsewhere. Repeatable."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the results of all finished units to a file."),
    ] = None,
    plain: Plain = False,
    debug: Debug = False,
) -> None:
    """Compare ways to train: arms x seeds under one budget, judged on the same examples."""
    with one_line_errors(debug=debug), sigterm_interrupts():
        from astor_rl.cli.comparison import compare_arms
        from astor_rl.compare.spec import load_comparison

        comparison = load_comparison(config, {} if jobs is None else {"jobs": jobs})
        typer.echo(f"astor {__version__}: {config} -> {comparison.output_dir}")
        code = compare_arms(
            comparison,
            base_dir=config.parent,
            only=only or [],
            train=not report_only,
            live=False if plain else None,
            quiet=not debug,
            imports=imports or [],
            export=export,
        )
    if code:
        raise typer.Exit(code)


@app.command()
def report(
    run: RunPath,
    as_json: AsJson = False,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw quota and beta over time.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print the closing table of a run again, finished or not."""
    with one_line_errors(debug=debug):
        from astor_rl.report.atomic import dumps
        from astor_rl.report.closing import render, summarize
        from astor_rl.report.plot import write_plot

        summary = summarize(run)
        if svg is not None:
            write_plot(summary, svg)
        if as_json:
            typer.echo(dumps(summary.as_dict(), indent=1))
        else:
            render(summary, sys.stdout)


@app.command()
def why(
    run: RunPath,
    step: Annotated[
        int | None, typer.Option("-s", "--step", min=1, help="The RL step; default: the last.")
    ] = None,
    task: Annotated[str | None, typer.Option("-t", "--task", help="Only this task.")] = None,
    debug: Debug = False,
) -> None:
    """Say why a step's batch was what it was: each task's share and KL coefficient."""
    with one_line_errors(debug=debug):
        from astor_rl.report.why import why as explain

        for line in explain(run, step=step, task=task):
            say(line)


@app.command()
def validate(
    config: ConfigPath,
    overrides: Overrides = None,
    examples: Annotated[
        int, typer.Option("-n", "--examples", min=1, help="Examples checked for each task.")
    ] = 50,
    plain: Plain = False,
    debug: Debug = False,
) -> None:
    """Check the data: does every task tell its right answers from wrong ones?"""
    with one_line_errors(debug=debug):
        from astor_rl.config import load_config

        run = load_config(config, overrides)
        from astor_rl.cli import findings
        from astor_rl.engines.validation import validate_tasks
        from astor_rl.report.console import make_console

        # Findings are the output; how it gets there belongs beside it.
        with make_console(sys.stderr, live=False if plain else None, quiet=not debug) as console:
            checked = validate_tasks(
                run, examples=examples, base_dir=config.parent, console=console
            )
        for line in findings.validation(checked):
            typer.echo(line)
        if not all(task.report.ok for task in checked):
            raise typer.Exit(FAILED)


def _note(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def mine(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Installed packages or paths, separated by commas: [bold]toolz,./my/repo[/].",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder for the data.")] = Path(
        "mined"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other examples.")] = 0,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A sandbox protection to do without. Repeatable."),
    ] = None,
    sandbox_url: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A server to run the code on. Repeatable."),
    ] = None,
    token_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The servers' secret.")
    ] = None,
    ca_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Who signed their certificates (PEM).")
    ] = None,
    plain: Plain = False,
    debug: Debug = False,
) -> None:
    """Make the four tasks' data from the functions, doctests and history of your code."""
    with one_line_errors(debug=debug):
        from astor_rl.cli.mining import findings, mine_to
        from astor_rl.config import SandboxConfig
        from astor_rl.report.console import make_console

        sandbox = SandboxConfig(
            allow_missing=allow_missing or [],
            url=sandbox_url or None,
            token_file=token_file,
            ca_file=ca_file,
        )

        with make_console(live=False if plain else None, quiet=not debug) as console:
            console.stage("Mining", source)
            mined = mine_to(source, out, seed=seed, sandbox=sandbox, console=console)
        for line in findings(mined, out):
            typer.echo(line)


@app.command()
def doctor(
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="A run file, whose sandbox servers are asked, too."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what this machine can do, and what to do where it can't."""
    with one_line_errors(debug=debug):
        from astor_rl import doctor as room
        from astor_rl.report.atomic import dumps
        from astor_rl.report.quiet import quiet_third_parties

        servers: Iterator[room.Check] = iter(())
        if config is not None:
            from astor_rl.config import load_config

            servers = room.sandbox_servers(load_config(config, overrides).sandbox)
        checks = []
        with quiet_third_parties(_note):
            for check in chain(room.diagnose(), servers):
                checks.append(check)
                if not as_json:
                    room.show(check, sys.stdout)
        if as_json:
            typer.echo(dumps(room.as_dict(checks), indent=1))
        elif room.ready(checks):
            typer.echo(f"ready: {command('train', 'configs/quickstart.toml')}")
        if not room.ready(checks):
            missing = [check for check in checks if check.status == "missing"]
            raise fail(
                f"the quickstart can't run here: {missing[0].name}: {missing[0].remedy}"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                FAILED,
            )


# Typer depended on click and now carries it inside; this is its ClickException in either case.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def run(arguments: list[str]) -> int:
    """Run a command line; returns the exit code."""
    try:
        code = app(arguments, prog_name="astor", standalone_mode=False)
    except _ClickException as error:
        # Without arguments there is no mistake to name, only help to give, which was printed.
        message = error.format_message() if hasattr(error, "format_message") else ""
        return fail(f"{message} (see: {_help_of(error)})", USAGE).exit_code if message else USAGE
    return code if isinstance(code, int) else 0


def _help_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'astor'} --help"


def main() -> None:
    """The entry point `astor`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model may say anything; a terminal that can't show it must not end the run.
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))
