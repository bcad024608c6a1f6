"""`weights`: fetch, update, use, prepare, check, list and prune the checkpoints and decoders on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anime_studio.checkpoints import store
from anime_studio.checkpoints.decoders import fetch_decoder, locate_with_decoder, with_decoder
from anime_studio.checkpoints.inventory import Item, inventory, remove, unused
from anime_studio.checkpoints.manifest import Manifest, Packing
from anime_studio.checkpoints.prepared import PREPARE_COMMAND, all_prepared, verify_prepared
from anime_studio.checkpoints.published_upscaler import PACKAGE, published_for, suits
from anime_studio.checkpoints.store import Checkpoint
from anime_studio.cli.fetch_report import FetchReport
from anime_studio.cli.installing import upscaler_remedy
from anime_studio.cli.output import JsonOption, Output, answering
from anime_studio.core.decoders import PUBLISHED, Decoder
from anime_studio.core.errors import ConfigurationError
from anime_studio.core.recipes import Recipe, get_recipe, require_decoder
from anime_studio.settings import Settings

RecipeOption = Annotated[
    str, typer.Option("--recipe", envvar="ANIME_STUDIO_RECIPE", help="Name of the recipe.", metavar="NAME")
]

DecoderOption = Annotated[
    Decoder, typer.Option("--decoder", envvar="ANIME_STUDIO_DECODER", help="What makes frames of latents.")
]

PRUNE_COMMAND = "anime-studio weights prune"

commands = typer.Typer(
    name="weights", help="Fetch, prepare and check a recipe's checkpoint.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(commands)


@commands.command()
def fetch(recipe: RecipeOption, decoder: DecoderOption = Decoder.FULL, as_json: JsonOption = False) -> None:
    """Download the checkpoint and the decoder, compare them with the hub's listing. Safe to interrupt and repeat."""
    with answering(as_json=as_json) as output:
        wanted = get_recipe(recipe)
        require_decoder(wanted, decoder)
        _fetch(output, wanted, decoder, newest=False)


@commands.command()
def update(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Move a recipe that names no commit to its repository's newest one; the old one stays until `weights prune`."""
    with answering(as_json=as_json) as output:
        _fetch(output, get_recipe(recipe), Decoder.FULL, newest=True)


@commands.command()
def use(
    revision: Annotated[str, typer.Argument(help="A commit that lies here: see `weights list`.")],
    recipe: RecipeOption,
    as_json: JsonOption = False,
) -> None:
    """Load this commit from the next start on. Every byte of it is checked first.

    On Modal: `modal run -m anime_studio.modal_app::use --revision …`; running containers follow before their next job.
    """
    with answering(as_json=as_json) as output:
        wanted, models_dir = get_recipe(recipe), Settings().models_dir
        checkpoint = store.use(wanted, models_dir, revision)
        output.result(
            _document(wanted, checkpoint), f"{_title(wanted, checkpoint)} is in use from the next start on"
        )


def _fetch(output: Output, recipe: Recipe, decoder: Decoder, *, newest: bool) -> None:
    models_dir = Settings().models_dir
    if decoder is not Decoder.FULL:
        fetch_decoder(PUBLISHED[decoder], models_dir)
    before = None if not newest else store.revision_in_use(recipe, models_dir)
    fetched = store.fetch(recipe, models_dir, newest=newest, report=FetchReport(output))
    checkpoint = with_decoder(fetched, recipe, decoder, models_dir)
    text = f"{_title(recipe, checkpoint)} is here and whole: {checkpoint.folder}"
    if recipe.repo_id and (in_use := store.revision_in_use(recipe, models_dir)) not in (
        None,
        checkpoint.revision,
    ):
        text += f"\nin use is another: {in_use}; to load this one: {store.USE_COMMAND} {checkpoint.revision}"
    if newest and before is not None:
        text += f"\nbefore: {before}" if before != checkpoint.revision else "\nit was the newest already"
    if checkpoint.decoder_file is not None:
        text += f"\ndecoder {decoder} is here and whole: {checkpoint.decoder_file}"
    output.result(_document(recipe, checkpoint), text)
    output.info(f"next, so that each start loads it fast: {PREPARE_COMMAND} --recipe {recipe.name}")


@commands.command("list")
def list_all(as_json: JsonOption = False) -> None:
    """List what lies here: commits, prepared checkpoints, unfinished downloads, their sizes, and what is in use."""
    with answering(as_json=as_json) as output:
        models_dir = Settings().models_dir
        items = inventory(models_dir)
        lines = [_line(item) for item in items]
        total = sum(item.size_bytes for item in items)
        spare = sum(item.size_bytes for item in unused(models_dir))
        lines.append(f"{total / 1e9:.1f} GB in {models_dir}, of which {spare / 1e9:.1f} GB are not in use")
        output.result([_item_document(item) for item in items], "\n".join(lines))
        if spare:
            output.info(f"next, to delete what is not in use: {PRUNE_COMMAND}")


@commands.command()
def prune(
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete older commits, unfinished downloads and prepared checkpoints that no start reads."""
    with answering(as_json=as_json) as output:
        items = list(unused(Settings().models_dir))
        for item in items:
            output.info(_line(item))
        size = f"{sum(item.size_bytes for item in items) / 1e9:.1f} GB"
        if items and not yes:
            if as_json or not output.people.is_terminal:
                raise ConfigurationError(
                    f"{len(items)} folders ({size}) would be deleted; say --yes to delete them"
                )
            typer.confirm(f"Delete these {len(items)} folders, {size}?", abort=True, err=True)
        for item in items:
            remove(item)
        text = f"{len(items)} folders deleted, {size}" if items else "everything here is in use"
        output.result([_item_document(item) for item in items], text)


@commands.command()
def prepare(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Write the checkpoint once more, as it is served: in its final dtype, in shards with their hashes.

    For this shell's ANIME_STUDIO_DEVICE; the source stays. Safe to interrupt and repeat.
    """
    from anime_studio.engine.loading.prepare import prepare as write  # torch: seconds

    with answering(as_json=as_json) as output:
        settings, wanted = Settings(), get_recipe(recipe)
        checkpoint = store.locate(wanted, settings.models_dir)
        packing = _packing(settings)
        output.info(f"preparing {_title(wanted, checkpoint)} as {packing}")

        def progress(model: str, done_bytes: int, total_bytes: int) -> None:
            output.info(f"{model}: {done_bytes / 1e6:,.0f} of {total_bytes / 1e6:,.0f} MB written")

        published = published_for(wanted)
        if published is None and suits(wanted):
            output.info(f"without an upscaler, because {PACKAGE} is not installed: {upscaler_remedy()}")
        folder = write(checkpoint, packing, progress, published=published)
        document = _document(wanted, checkpoint) | {"prepared": _prepared(folder)}
        output.result(document, f"{_title(wanted, checkpoint)} is prepared as {packing}: {folder}")


@commands.command()
def verify(recipe: RecipeOption, as_json: JsonOption = False) -> None:
    """Hash every byte of the checkpoint and of those prepared from it; a wrong file is named."""
    with answering(as_json=as_json) as output:
        settings, wanted = Settings(), get_recipe(recipe)
        checkpoint = locate_with_decoder(wanted, settings.decoder, settings.models_dir, hashes=True)
        prepared = verify_prepared(checkpoint, _packing(settings)) if all_prepared(checkpoint) else []
        lines = [f"{_title(wanted, checkpoint)} is whole: {checkpoint.folder}"]
        lines += [f"prepared and whole: {folder}" for folder in prepared]
        if checkpoint.decoder_file is not None:
            lines.append(f"decoder {checkpoint.decoder} is whole: {checkpoint.decoder_file}")
        document = _document(wanted, checkpoint) | {"prepared": [_prepared(folder) for folder in prepared]}
        output.result(document, "\n".join(lines))
        if not prepared:
            output.info(f"not prepared; a start loads faster after: {PREPARE_COMMAND} --recipe {recipe}")


def _packing(settings: Settings) -> Packing:
    from anime_studio.engine.loading.prepare import packing_of  # torch: seconds

    return packing_of(settings.device)


def _line(item: Item) -> str:
    state = "in use" if item.in_use else "not in use"
    return f"{item.owner}  {item.revision}  {item.kind}  {item.size_bytes / 1e9:.2f} GB  {state}"


def _item_document(item: Item) -> dict[str, object]:
    return {
        "owner": item.owner,
        "revision": item.revision,
        "kind": item.kind,
        "size_bytes": item.size_bytes,
        "in_use": item.in_use,
        "folder": str(item.folder),
    }


def _title(recipe: Recipe, checkpoint: Checkpoint) -> str:
    return f"{recipe.name} at {checkpoint.revision}"


def _document(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "recipe": recipe.name,
        "revision": checkpoint.revision,
        "folder": str(checkpoint.folder),
        "decoder": checkpoint.decoder,
        "decoder_file": checkpoint.decoder_file and str(checkpoint.decoder_file),
    }


def _prepared(folder: Path) -> dict[str, object]:
    manifest = Manifest.read(folder)
    assert manifest.layout is not None
    return {
        "folder": str(folder),
        "layout_version": manifest.layout.version,
        "text_weights": manifest.layout.packing.text_weights,
        "dtype": manifest.layout.packing.dtype,
        "files": len(manifest.files),
        "size_bytes": manifest.size_bytes,
    }
