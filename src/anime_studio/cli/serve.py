"""`serve`: the local server, its settings from the environment and these flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from anime_studio.cli.output import answering
from anime_studio.core.errors import ConfigurationError
from anime_studio.settings import Settings


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
    flags = {
        "recipe": recipe,
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "models_dir": models_dir,
        "device": device,
        "base_url": base_url,
        "log_format": log_format,
        "max_queued_jobs": max_queued_jobs,
    }
    with answering(as_json=False):
        settings = settings_with({name: value for name, value in flags.items() if value is not None})
        try:
            from anime_studio.local import serve as serve_until_stopped

            serve_until_stopped(settings)
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"the server needs {error.name}; install it with: pip install 'anime-studio[server,engine]'"
            ) from None


def settings_with(flags: dict[str, Any]) -> Settings:
    """Return the environment's settings, *flags* first.

    Raises:
        ConfigurationError: A value is wrong; the detail names its variable.
    """
    try:
        return Settings(**flags)
    except ValidationError as error:
        told = "; ".join(
            f"{item['loc'][0]} (ANIME_STUDIO_{str(item['loc'][0]).upper()}): {item['msg']}"
            for item in error.errors()
        )
        raise ConfigurationError(told) from None
