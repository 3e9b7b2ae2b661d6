"""`astor eval`: what it takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from astor_rl import __version__
from astor_rl.cli.errors import one_line_errors, sigterm_interrupts
from astor_rl.cli.options import Debug, Overrides, Plain, say
from astor_rl.errors import ConfigError


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run folder, model folder or hub id.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="The run file to evaluate on; default: the run's own."),
    ] = None,
    overrides: Overrides = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Look at the validation split, not the test split.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Also write the results: a JSON file, or with --suite the folder of results and "
            "samples.",
        ),
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="A public benchmark, [bold]paper[/] for the paper's ten metrics, or several "
            "(a,b). Repeatable.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="SUITE=SOURCE", help="A suite's data: jsonl:, hf:, a folder."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="A folder with the suites' files.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Answers to each question; default: 1.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Default: 0, or 0.2 for several samples.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the answers, and of --limit; default: 0.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Of an answer; default: the suite's.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Questions of each suite, drawn at random.")
    ] = None,
    toolchain: Annotated[
        list[str] | None,
        typer.Option(
            "--toolchain",
            metavar="LANGUAGE=FOLDER",
            help="What a language of aider-polyglot needs beside its compiler. Repeatable.",
        ),
    ] = None,
    unsandboxed: Annotated[
        list[str] | None,
        typer.Option(
            "--unsandboxed",
            metavar="NAME",
            help="A language, or defects4j, to run as this user where bubblewrap is missing. "
            "Repeatable.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the evaluation in --output.")
    ] = False,
    plain: Plain = False,
    debug: Debug = False,
) -> None:
    """Evaluate a model on held-out examples, or with [bold]--suite[/] on public benchmarks.

    What [bold]--data[/] to [bold]--resume[/] say is about [bold]--suite[/]. Without it,
    [bold]--set eval.examples=200[/] takes more of a run's own examples.
    """
    asked = {
        "data": data,
        "data_dir": data_dir,
        "samples": samples,
        "temperature": temperature,
        "seed": seed,
        "max_tokens": max_tokens,
        "limit": limit,
        "toolchain": toolchain,
        "unsandboxed": unsandboxed,
        "resume": resume,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if _was_given(value)}
    with one_line_errors(debug=debug), sigterm_interrupts():
        typer.echo(f"astor {__version__}: evaluating {target}")
        if suites and validation:
            raise ConfigError("--validation is for a run's own examples; a suite has one split")
        if not suites:
            _refuse_suites(given)
        _refuse_output(output, folder=bool(suites))
        from astor_rl.cli import findings
        from astor_rl.report.console import make_console

        console = make_console(live=False if plain else None, quiet=not debug)
        if suites:
            from astor_rl.engines.local.suites import SuiteOptions, evaluate_suites

            options = SuiteOptions(suites, output=output, **given)
            with console:
                results, path = evaluate_suites(
                    target, options, config=config, overrides=overrides, console=console
                )
            for line in findings.suites(results, path):
                say(line)
            return
        from astor_rl.engines.local.evaluating import evaluate_target, find_target
        from astor_rl.report.atomic import write_json

        found = find_target(target, config, overrides)
        with console:
            by_task = evaluate_target(
                found, split="validation" if validation else "test", console=console
            )
        for line in findings.held_out(by_task):
            typer.echo(line)
        if output is not None:
            tasks = {name: result.as_dict() for name, result in by_task.items()}
            write_json(output, {"name": found.model, "step": None, "tasks": tasks})


def _was_given(value: object) -> bool:
    """Zeros were: by equality, 0.0 would be among these."""
    return not (value is None or value is False or value == [])


def _refuse_suites(given: Mapping[str, object]) -> None:
    """What only suites have is refused without one, not ignored."""
    if given:
        first = next(iter(given)).replace("_", "-")
        raise ConfigError(
            f"--{first} belongs to --suite; a run's own examples are "
            "evaluated as its [eval] says, which --set changes"
        )


def _refuse_output(output: Path | None, *, folder: bool) -> None:
    """What can't be written in the end is said before anything is evaluated."""
    if output is None or not output.exists() or output.is_dir() == folder:
        return
    found, wanted = ("file", "folder") if folder else ("folder", "JSON file")
    raise ConfigError(
        f"--output {str(output)!r} is a {found}; {'with' if folder else 'without'} --suite "
        f"results are a {wanted}: name another"
    )
