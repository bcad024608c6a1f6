"""The weights of decoders that stand in for a checkpoint's own: where they are and how they get there.

    models_dir/decoders/light-1821a86dacb3/      named by the decoder and by the hash of its published file
        lightvaew2_1.safetensors                 as published
        manifest.json, complete                  as every fetched checkpoint's

They are fetched apart from any recipe and are part of no prepared checkpoint: one file of 32 or 45 MB loads in no time,
and a prepared checkpoint serves every choice of decoder.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from anime_studio.checkpoints.atomic_folder import PARTIAL, exclusive
from anime_studio.checkpoints.hub import ModelHub
from anime_studio.checkpoints.manifest import COMPLETE, Manifest, fixed_by, sha256_of
from anime_studio.checkpoints.store import (
    FETCH_COMMAND,
    Checkpoint,
    locate,
    publish,
    weights_missing,
)
from anime_studio.core.decoders import PUBLISHED, Decoder, DecoderWeights
from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import Recipe, require_decoder

FOLDER: Final = "decoders"
"""Beside the recipes' folders."""


def locate_with_decoder(
    recipe: Recipe, decoder: Decoder, models_dir: Path, *, hashes: bool | None = None
) -> Checkpoint:
    """Return the recipe's checkpoint with the file of *decoder*, both checked; see `locate` and `with_decoder`."""
    require_decoder(recipe, decoder)
    return with_decoder(locate(recipe, models_dir, hashes=hashes), recipe, decoder, models_dir, hashes=hashes)


def with_decoder(
    checkpoint: Checkpoint, recipe: Recipe, decoder: Decoder, models_dir: Path, *, hashes: bool | None = None
) -> Checkpoint:
    """Return *checkpoint* with the file of *decoder*, checked.

    Args:
        checkpoint: The recipe's, as located.
        recipe: Which the decoder is to serve.
        decoder: What is to decode.
        models_dir: The folder of all checkpoints.
        hashes: See `Manifest.check`.

    Raises:
        WeightsMissingError: The decoder's file is not on this machine; `command` fetches it.
        CheckpointError: It is truncated or altered; the detail names it.
    """
    if decoder is Decoder.FULL:
        return checkpoint
    weights = PUBLISHED[decoder]
    folder, command = models_dir / relative_folder(weights), fetch_command(recipe, decoder)
    if not (folder / COMPLETE).exists():
        raise weights_missing(f"decoder {decoder}", str(folder), command)
    with fixed_by(f"fetch the weights again with: {command}"):
        Manifest.read(folder).check(folder, hashes=hashes)
    return replace(checkpoint, decoder=decoder, decoder_file=folder / weights.file_name)


def fetch_decoder(weights: DecoderWeights, models_dir: Path, *, hub: ModelHub | None = None) -> Path:
    """Download a decoder's file, compare its hash with the published one, and make it visible by one rename.

    A file that is here and whole is not downloaded again, nor is the hub asked.

    Args:
        weights: What to fetch.
        models_dir: The folder of all checkpoints.
        hub: Where from; None means the public hub, or `HF_ENDPOINT`.

    Returns:
        Its folder.

    Raises:
        CheckpointError: What came is not what was published; nothing is left of it.
        ConfigurationError: Another process is fetching one.
        DiskFullError: The disk has no room for it.
        HubError: The hub did not give it.
    """
    folder = models_dir / relative_folder(weights)
    if _is_whole(folder, weights):
        return folder
    hub = hub or ModelHub()
    partial = folder.with_name(f"{folder.name}{PARTIAL}")
    commit = hub.commit_of(weights.repo_id, "main")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent):
        hub.download(hub.listing(weights.repo_id, commit, [weights.file_name]), partial)
        _require_published(partial / weights.file_name, weights)
        publish(partial, folder)
    return folder


def relative_folder(weights: DecoderWeights) -> Path:
    """Return where the decoder's file is, within the folder of all checkpoints."""
    return Path(FOLDER, f"{weights.decoder}-{weights.sha256[:12]}")


def fetch_command(recipe: Recipe, decoder: Decoder) -> str:
    """Return the command that fetches the recipe's weights and the decoder's."""
    return f"{FETCH_COMMAND} --recipe {recipe.name} --decoder {decoder}"


def _is_whole(folder: Path, weights: DecoderWeights) -> bool:
    try:
        manifest = Manifest.read(folder)
        manifest.check(folder, hashes=True)
    except CheckpointError:
        return False
    file = manifest.files.get(weights.file_name)
    return (folder / COMPLETE).exists() and file is not None and file.sha256 == weights.sha256


def _require_published(file: Path, weights: DecoderWeights) -> None:
    found = sha256_of(file)
    if found != weights.sha256:
        shutil.rmtree(file.parent, ignore_errors=True)  # or the next try would take it for what was asked
        raise CheckpointError(
            f"{weights.repo_id} gave a {weights.file_name} whose SHA-256 is {found}, not the published "
            f"{weights.sha256}; it was removed. If the repository has a newer file, this program does not know it"
        )
