"""`astor sandbox`: the sandbox by itself, for trainers on other machines."""

from __future__ import annotations

from typing import Annotated

import typer

from astor_rl.cli.errors import one_line_errors, sigterm_interrupts

app = typer.Typer(no_args_is_help=True, help="Run code for trainers on other machines.")


@app.callback()
def _sandbox() -> None:
    pass


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; [bold]0.0.0.0[/] lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8417,
    workers: Annotated[
        int, typer.Option(min=0, help="Jobs at a time; 0 takes one a usable CPU.")
    ] = 0,
    queue: Annotated[
        int | None, typer.Option(min=0, help="Jobs that may wait besides; default: 4 a worker.")
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The secret trainers show; or ASTOR_SANDBOX_TOKEN."),
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate with its chain (PEM).")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="The certificate's key (PEM).")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines in without TLS.")
    ] = False,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A sandbox protection to do without. Repeatable."),
    ] = None,
    grace: Annotated[
        int, typer.Option(min=0, help="Seconds that running jobs get after SIGTERM.")
    ] = 30,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run untrusted code for trainers that name this server in [bold]sandbox.url[/]."""
    with one_line_errors(debug=debug), sigterm_interrupts():
        from astor_rl.sandbox.remote.server import ServeOptions
        from astor_rl.sandbox.remote.server import serve as serve_until_stopped

        options = ServeOptions(
            host=host,
            port=port,
            workers=workers or None,
            queue=queue,
            token_file=token_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
            insecure=insecure,
            allow_missing=allow_missing or (),
            grace_s=grace,
        )
        serve_until_stopped(options, note=typer.echo)
