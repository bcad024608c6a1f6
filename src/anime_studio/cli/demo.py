"""`demo`: a server, a prompt, a clip and a receipt on this machine, over real HTTP."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from anime_studio.cli.generate import refuse_to_replace, save, submit_and_wait
from anime_studio.cli.local_server import running_server
from anime_studio.cli.output import JsonOption, answering
from anime_studio.client import StudioClient

PROMPT: Final = "a girl with pink twintails waving on a beach at sunset, cherry petals falling"
ENGINE_TIMEOUT_S: Final = 600.0
CLIP_TIMEOUT_S: Final = 1800.0
"""Long, because two busy cores need minutes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    prompt: Annotated[str, typer.Argument(help="What to draw.")] = PROMPT,
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False)] = Path("clip.mp4"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it exists.")] = False,
    recipe: Annotated[str, typer.Option(help="See: anime-studio recipes.")] = "demo",
    models_dir: Annotated[Path | None, typer.Option(help="Weights, for recipes that need some.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    duration: Annotated[float, typer.Option(help="Seconds.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Start a server of its own, post a prompt, save the clip, print the receipt, stop the server."""
    with answering(as_json=as_json) as output, tempfile.TemporaryDirectory(prefix="anime-studio-") as folder:
        refuse_to_replace(out, force=force)
        output.info("starting a local server")
        with running_server(Path(folder), recipe=recipe, models_dir=models_dir) as server:
            output.info(f"server at {server.url}; loading the engine")
            server.wait_until_ready(ENGINE_TIMEOUT_S)
            with StudioClient(server.url) as studio:
                output.info(f"POST /generate: {prompt}")
                job = submit_and_wait(
                    studio,
                    output,
                    prompt,
                    {"duration": duration, "seed": seed, "source": "demo"},
                    CLIP_TIMEOUT_S,
                )
                save(studio, output, job, out, force=force)
