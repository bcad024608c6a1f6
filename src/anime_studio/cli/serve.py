"""`serve`: runs the local server with the settings of the environment and of its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from anime_studio.cli.installing import install_command
from anime_studio.cli.output import answering
from anime_studio.core.errors import ConfigurationError
from anime_studio.settings import Settings, wrong_values


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    recipe: Annotated[str | None, typer.Option(help="See: anime-studio recipes.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one; default 8017.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Jobs, clips, key; default .anime-studio.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Weights.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Public address for links.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json or console.")] = None,
    max_queued_jobs: Annotated[int | None, typer.Option(help="More are refused with 429.")] = None,
) -> None:
    """Serve the API and the pages until Ctrl-C. Every setting is also an ANIME_STUDIO_… variable."""
    flags = {name: value for name, value in locals().items() if value is not None}  # each is a setting's name
    with answering(as_json=False) as output:
        settings = settings_with(flags)
        if output.people.is_terminal and settings.port:
            address = settings.base_url or f"http://{settings.host}:{settings.port}"
            output.info(f"the studio page: {address} (the engine needs some seconds first; Ctrl-C ends)")
        try:
            from anime_studio.on_laptop.server import serve as serve_until_stopped

            serve_until_stopped(settings)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"the server needs {error.name}; install it with: {install_command('server,engine')}"
            ) from None


def settings_with(flags: dict[str, Any]) -> Settings:
    """Return the settings of the environment, with those of *flags* in their place.

    Raises:
        ConfigurationError: A value is wrong; the detail names its variable.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError(wrong_values(error)) from None
