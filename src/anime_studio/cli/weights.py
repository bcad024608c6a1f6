"""`weights`: fetch a recipe's checkpoint, prepare it for fast loading, and check every byte of both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anime_studio.cli.output import JsonOption, Output, answering
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.prepared import PREPARE_COMMAND, Forms, Packing, read_layout
from anime_studio.settings import Settings
from anime_studio.weights import Checkpoint, read_manifest, size_bytes_of

RecipeOption = Annotated[
    str, typer.Option("--recipe", envvar="ANIME_STUDIO_RECIPE", help="Name of the recipe.", metavar="NAME")
]

commands = typer.Typer(
    name="weights", help="Fetch, prepare and check a recipe's checkpoint.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(commands)


@commands.command()
def fetch(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Download the checkpoint, hash it, and make it visible in one step. Safe to interrupt and repeat."""
    from anime_studio import weights

    with answering(as_json=as_json) as output:
        wanted = get_recipe(recipe)
        checkpoint = weights.fetch(wanted, Settings().models_dir)
        told = f"{_named(wanted, checkpoint)} is here and whole: {checkpoint.folder}"
        output.result(_document(wanted, checkpoint), told)
        output.say(f"next, so that each start loads it fast: {PREPARE_COMMAND} --recipe {recipe}")


@commands.command()
def prepare(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Write the checkpoint once more, as it is served: packed, in its final dtype, in shards with their hashes.

    For this shell's ANIME_STUDIO_DEVICE and ANIME_STUDIO_ACCELERATE; the source stays. Safe to interrupt and repeat.
    """
    from anime_studio.engine.preparing import prepare as write  # torch: seconds
    from anime_studio.weights import locate

    with answering(as_json=as_json) as output:
        settings, wanted = Settings(), get_recipe(recipe)
        checkpoint = locate(wanted, settings.models_dir)
        packing = _packing(settings)
        output.say(f"preparing {_named(wanted, checkpoint)} as {packing}")
        forms = Forms.of(wanted, checkpoint.folder, settings.models_dir)
        folder = write(forms, packing, lambda *news: _tell(output, *news))
        document = _document(wanted, checkpoint) | {"prepared": _form(folder)}
        output.result(document, f"{_named(wanted, checkpoint)} is prepared as {packing}: {folder}")


@commands.command()
def verify(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Hash every byte of the checkpoint and of its prepared forms; a wrong file is named."""
    from anime_studio import weights

    with answering(as_json=as_json) as output:
        settings, wanted = Settings(), get_recipe(recipe)
        checkpoint = weights.verify(wanted, settings.models_dir)
        forms = Forms.of(wanted, checkpoint.folder, settings.models_dir)
        whole = forms.verify(_packing(settings)) if forms.all() else []
        lines = [f"{_named(wanted, checkpoint)} is whole: {checkpoint.folder}"]
        lines += [f"prepared and whole: {folder}" for folder in whole]
        document = _document(wanted, checkpoint) | {"prepared": [_form(folder) for folder in whole]}
        output.result(document, "\n".join(lines))
        if not whole:
            output.say(f"not prepared; a start loads faster after: {PREPARE_COMMAND} --recipe {recipe}")


def _packing(settings: Settings) -> Packing:
    from anime_studio.engine.preparing import packing_of  # torch: seconds

    return packing_of(settings.device, accelerate=settings.accelerate)


def _named(recipe: Recipe, checkpoint: Checkpoint) -> str:
    return f"{recipe.name} at {checkpoint.revision}"


def _document(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, object]:
    return {"recipe": recipe.name, "revision": checkpoint.revision, "folder": str(checkpoint.folder)}


def _form(folder: Path) -> dict[str, object]:
    layout = read_layout(folder)
    assert layout is not None
    files = read_manifest(folder)
    return {
        "folder": str(folder),
        "layout_version": layout.version,
        "text_weights": layout.packing.text_weights,
        "dtype": layout.packing.dtype,
        "files": len(files),
        "size_bytes": size_bytes_of(files),
    }


def _tell(output: Output, part: str, done_bytes: int, total_bytes: int) -> None:
    output.say(f"{part}: {done_bytes / 1e6:,.0f} of {total_bytes / 1e6:,.0f} MB written")
