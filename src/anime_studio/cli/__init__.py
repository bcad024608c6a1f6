"""The command line: each module registers its commands, `main` runs one of them.

Commands import what they need when they run, so that `anime-studio --help` loads neither
torch nor FastAPI nor modal.
"""

from __future__ import annotations

import sys

import typer
from typer.exceptions import TyperException

from anime_studio import __version__
from anime_studio.cli import (
    cost,
    demo,
    doctor,
    follow,
    generate,
    jobs,
    modal,
    operator,
    prove,
    recipes,
    serve,
    show,
    weights,
)
from anime_studio.cli.output import EXIT_CODES, ExitCode, Output
from anime_studio.client.errors import own_problem

app = typer.Typer(
    name="anime-studio",
    help="A chat line becomes an anime clip: Wan 2.1 over HTTP, on Modal or on a laptop.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

for _commands in (
    generate,
    jobs,
    follow,
    show,
    operator,
    serve,
    recipes,
    weights,
    cost,
    doctor,
    prove,
    demo,
    modal,
):
    _commands.register(app)


@app.callback(invoke_without_command=True)
def _options(
    version: bool = typer.Option(False, "--version", is_eager=True, help="Show the version."),
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; with `--json` wrong usage too is a problem document."""
    arguments = sys.argv[1:]
    if "--json" not in arguments:
        app()
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except TyperException as error:
        detail = getattr(error, "format_message", error.__str__)()
        Output(as_json=True).problem(own_problem("usage", detail, status=400))
        sys.exit(ExitCode.USAGE)
