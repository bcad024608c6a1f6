"""Prepared checkpoints: where they are, and whether one may be loaded. No torch.

    models_dir/<recipe>/<revision>                        the source, as fetched
    models_dir/<recipe>/<revision>.plain-bfloat16-v1/     prepared from the source
        model_index.json, tokenizer/, scheduler/          copied
        text_encoder/, transformer/, vae/                 config.json and shards: 00001.safetensors, …
        upscaler/                                         the source's, or the published one; may be absent
        manifest.json                                     as every checkpoint's, with a `layout`

A prepared checkpoint holds the same weights in the packing and dtype that the engine serves, so that a start reads
fewer bytes and converts nothing. Its folder name holds everything that decides its bytes, so different settings use
different folders. `engine.loading.prepare` writes one, `engine.loading.components` loads one. docs/adr/0024 has the reasons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anime_studio.checkpoints.atomic_folder import PARTIAL, REPLACED
from anime_studio.checkpoints.manifest import LAYOUT_VERSION, MANIFEST, Manifest, Packing, fixed_by, sha256_of
from anime_studio.checkpoints.pipeline_files import has_upscaler
from anime_studio.checkpoints.store import Checkpoint, find
from anime_studio.core.errors import CheckpointError, WeightsMissingError
from anime_studio.core.recipes import Recipe

PREPARE_COMMAND: Final = "anime-studio weights prepare"
VERIFY_COMMAND: Final = "anime-studio weights verify"


def prepared_folder(checkpoint: Checkpoint, packing: Packing) -> Path:
    """Return the folder of the checkpoint prepared as *packing*, whether or not it exists."""
    base = checkpoint.prepared_base
    return base.with_name(f"{base.name}.{packing}-v{LAYOUT_VERSION}")


def all_prepared(checkpoint: Checkpoint) -> list[Path]:
    """Return the folders of all checkpoints prepared from *checkpoint*, of every packing and layout version."""
    base = checkpoint.prepared_base
    folders = base.parent.glob(f"{base.name}.*-v*")
    return sorted(folder for folder in folders if folder.suffix not in (PARTIAL, REPLACED))


def find_prepared(checkpoint: Checkpoint, packing: Packing) -> Path | None:
    """Return the folder of the checkpoint prepared as *packing*, checked as a start checks it; None if it is not there.

    Raises:
        CheckpointError: It is damaged, or was prepared from other bytes than the source has now.
    """
    folder = prepared_folder(checkpoint, packing)
    if not folder.exists():
        return None
    _read_manifest(checkpoint, folder).check(folder)
    return folder


def upscales(recipe: Recipe, models_dir: Path) -> bool:
    """Return whether the recipe's checkpoint, or one prepared from it, has an upscaler; False if it is not here yet."""
    try:
        checkpoint = find(recipe, models_dir)
        return any(has_upscaler(folder) for folder in (checkpoint.folder, *all_prepared(checkpoint)))
    except (WeightsMissingError, CheckpointError):  # the worker says what is wrong with it
        return False


def verify_prepared(checkpoint: Checkpoint, packing: Packing) -> list[Path]:
    """Hash every byte of every checkpoint prepared from *checkpoint*, and return their folders.

    Raises:
        CheckpointError: One is damaged, was prepared from other bytes or has another layout version; or there are
            some, but none is packed as *packing*.
    """
    folders = all_prepared(checkpoint)
    with fixed_by(prepare_again(checkpoint)):
        for folder in folders:
            _read_manifest(checkpoint, folder).check(folder, hashes=True)
        if prepared_folder(checkpoint, packing) not in folders:
            refuse_others(checkpoint, packing)
    return folders


def refuse_others(checkpoint: Checkpoint, packing: Packing) -> None:
    """Say that what is prepared is of another packing than *packing*; do nothing if nothing is prepared.

    Raises:
        CheckpointError: It is.
    """
    for folder in all_prepared(checkpoint):
        raise CheckpointError(f"{folder} is not packed as {packing}, which these settings ask for")


def prepare_again(checkpoint: Checkpoint) -> str:
    """Return what a person should do about a prepared checkpoint that cannot be used."""
    recipe = checkpoint.prepared_base.parent.name
    return f"prepare the weights with: {PREPARE_COMMAND} --recipe {recipe} (on Modal: setup does it)"


def _read_manifest(checkpoint: Checkpoint, folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    if manifest.layout is None:
        raise CheckpointError(f"{folder / MANIFEST} describes no layout")
    if folder != prepared_folder(checkpoint, manifest.layout.packing):
        raise CheckpointError(f"{folder} is packed as {manifest.layout.packing}, its name says otherwise")
    source = checkpoint.folder / MANIFEST
    if not source.exists() or manifest.layout.source_sha256 != sha256_of(source):
        raise CheckpointError(f"{folder} was prepared from other bytes than {source} lists now")
    return manifest
