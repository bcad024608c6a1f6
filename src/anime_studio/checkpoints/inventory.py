"""What lies in the folder of all checkpoints: fetched, prepared and unfinished ones, and which of them nothing uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from anime_studio.checkpoints.atomic_folder import PARTIAL, REPLACED
from anime_studio.checkpoints.decoders import FOLDER as DECODERS
from anime_studio.checkpoints.decoders import relative_folder
from anime_studio.checkpoints.hub import size_of
from anime_studio.checkpoints.manifest import COMPLETE, LAYOUT_VERSION
from anime_studio.checkpoints.store import NEWEST, find, revision_in_use
from anime_studio.core.decoders import PUBLISHED
from anime_studio.core.errors import WeightsMissingError
from anime_studio.core.recipes import RECIPES, Recipe

_BY_CHECKPOINT = {recipe.checkpoint_name: recipe for recipe in RECIPES.values()}


class Kind(StrEnum):
    """What a folder is."""

    FETCHED = "fetched"
    """A checkpoint as published."""
    PREPARED = "prepared"
    """Made from a fetched one by `weights prepare`."""
    DECODER = "decoder"
    """A smaller decoder's file."""
    PARTIAL = "partial"
    """What an interrupted command left; the same command goes on from it or begins anew."""
    UNKNOWN = "unknown"
    """Of no recipe that this program has."""


@dataclass(frozen=True, slots=True)
class Item:
    """One folder.

    Attributes:
        folder: Where.
        kind: See `Kind`.
        owner: The recipe, or `decoders`.
        revision: The commit, with the packing of a prepared checkpoint; the name of a decoder's folder.
        size_bytes: Of all files.
        in_use: Whether a start of the recipe, or of one that takes the decoder, reads it.
    """

    folder: Path
    kind: Kind
    owner: str
    revision: str
    size_bytes: int
    in_use: bool


def inventory(models_dir: Path) -> list[Item]:
    """Return what lies in *models_dir*, by owner and name."""
    if not models_dir.is_dir():
        return []
    folders = (
        path for base in sorted(models_dir.iterdir()) if base.is_dir() for path in sorted(base.iterdir())
    )
    return [_item(folder) for folder in folders if folder.is_dir()]


def remove(item: Item) -> None:
    """Delete the folder; what a start reads disappears by one rename, so that no start meets half of it."""
    doomed = item.folder
    if item.kind is not Kind.PARTIAL:
        doomed = item.folder.with_name(f"{item.folder.name}{REPLACED}")
        item.folder.rename(doomed)
    shutil.rmtree(doomed)


def _item(folder: Path) -> Item:
    owner = folder.parent.name
    kind = _kind(folder)
    return Item(folder, kind, owner, folder.name, size_of(folder), _in_use(folder, kind))


def _kind(folder: Path) -> Kind:
    owner = folder.parent.name
    if folder.suffix in (PARTIAL, REPLACED):
        return Kind.PARTIAL
    if owner == DECODERS:
        return Kind.DECODER if (folder / COMPLETE).exists() else Kind.PARTIAL
    if owner not in _BY_CHECKPOINT:
        return Kind.UNKNOWN
    return Kind.FETCHED if (folder / COMPLETE).exists() else Kind.PREPARED


def _in_use(folder: Path, kind: Kind) -> bool:
    if kind is Kind.DECODER:
        return any(folder.name == relative_folder(weights).name for weights in PUBLISHED.values())
    if kind not in (Kind.FETCHED, Kind.PREPARED):
        return False
    recipe, models_dir = _BY_CHECKPOINT[folder.parent.name], folder.parent.parent
    try:
        base = find(recipe, models_dir).prepared_base
    except WeightsMissingError:
        # What `in_use` names is not here: nothing is deleted until somebody has fetched it or named another.
        return revision_in_use(recipe, models_dir) is not None
    prepared = folder.name.startswith(f"{base.name}.") and folder.name.endswith(f"-v{LAYOUT_VERSION}")
    return folder.name == base.name or prepared


def unused(models_dir: Path) -> Iterator[Item]:
    """Yield what no start reads: older commits, unfinished folders, prepared checkpoints of other layout versions.

    Folders of recipes that this program does not have are left alone: another version may.
    """
    return (item for item in inventory(models_dir) if not item.in_use and item.kind is not Kind.UNKNOWN)


def pinned_by(recipe: Recipe, revision: str) -> str:
    """Return in words what holds the recipe to *revision*."""
    if recipe.revision == revision:
        return "the program names its commit"
    if recipe.revision != NEWEST:
        return f"by `weights use`; the program names {recipe.revision}"
    return "the commit of the first fetch, until: anime-studio weights update"
