"""Fetched checkpoints: where a recipe's checkpoint is, how it gets there, and whether it is whole.

    models_dir/<recipe>/<revision>/      never changed; named by the repository's commit
        model_index.json, …              diffusers' layout
        manifest.json                    size and SHA-256 of every file
        complete                         written last: a folder without it is not a checkpoint
    models_dir/<recipe>/in_use           the revision that is loaded, in place of the recipe's own; `use` writes it

A fetch may be interrupted and repeated: files are downloaded into `<revision>.partial` and compared with the hub's
listing, then one rename makes the folder visible. The demo checkpoint ships with the package and has a manifest too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from anime_studio import __version__
from anime_studio.checkpoints.atomic_folder import PARTIAL, exclusive
from anime_studio.checkpoints.hub import Listing, ModelHub
from anime_studio.checkpoints.manifest import COMPLETE, Manifest, fixed_by
from anime_studio.checkpoints.pipeline_files import (
    FOLDERS,
    indexes,
    needed,
    published_twice,
    require_complete,
)
from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import (
    CheckpointError,
    ConfigurationError,
    HubRateLimitedError,
    HubUnreachableError,
    WeightsMissingError,
)
from anime_studio.core.recipes import DEMO, TINY_RANDOM, Recipe

PACKAGED = Path(__file__).parent
FETCH_COMMAND = "anime-studio weights fetch"
USE_COMMAND = "anime-studio weights use"

IN_USE = "in_use"
NEWEST = "main"
"""The revision of a recipe that names no commit."""


class Report:
    """Hears what a fetch has to say; this one says nothing."""

    def note(self, text: str) -> None:
        """Hear a sentence for people."""

    @contextmanager
    def following(self, listing: Listing, folder: Path) -> Iterator[None]:  # noqa: ARG002
        """Follow the bytes of *listing* that come into *folder* while the context lasts."""
        yield


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        folder: Its files, in diffusers' layout, as fetched or as packaged.
        revision: The commit it was fetched at.
        prepared_base: `models_dir/<recipe>/<revision>`: the checkpoints prepared from this one are beside this path
            and their names begin with it (`checkpoints.prepared`). It is *folder*, except for the packaged checkpoint:
            nothing is written into the package.
        decoder: What decodes its latents (`checkpoints.decoders`).
        decoder_file: That decoder's weights; None for the checkpoint's own.
        gated: Whether the denoiser has the gates of sparse attention (`Recipe.sparse`); no JSON file of it tells.
    """

    folder: Path
    revision: str
    prepared_base: Path
    decoder: Decoder = Decoder.FULL
    decoder_file: Path | None = None
    gated: bool = False

    @classmethod
    def at(cls, folder: Path, *, gated: bool = False) -> Self:
        """Return the checkpoint in *folder*, a path that ends in `<recipe>/<revision>`."""
        return cls(folder, folder.name, folder, gated=gated)


def locate(
    recipe: Recipe, models_dir: Path, *, revision: str | None = None, hashes: bool | None = None
) -> Checkpoint:
    """Return the recipe's checkpoint, its files checked.

    Args:
        recipe: Whose checkpoint.
        models_dir: The folder of all checkpoints.
        revision: Which one; None for the one in use.
        hashes: See `Manifest.check`.

    Raises:
        WeightsMissingError: It is not on this machine; `command` fetches it.
        CheckpointError: A file is missing, truncated or altered; the detail names it.
    """
    checkpoint = find(recipe, models_dir, revision)
    check(checkpoint, hashes=hashes)
    return checkpoint


def check(checkpoint: Checkpoint, *, hashes: bool | None = None) -> None:
    """Compare every file of *checkpoint* with its manifest; *hashes* as in `Manifest.check`.

    Raises:
        CheckpointError: A file is missing, truncated or altered; the detail names it.
    """
    with fixed_by(_fix_of(checkpoint)):
        Manifest.read(checkpoint.folder).check(checkpoint.folder, hashes=hashes)


def _fix_of(checkpoint: Checkpoint) -> str:
    """Return what a person should do about a checkpoint whose files are not those of its manifest."""
    if checkpoint.folder.parent == PACKAGED:
        return "it came with the package: install that again, or restore the file in a checkout"
    command = _command_for(checkpoint.folder.parent.name, checkpoint.folder)
    return f"fetch the weights again with: {command} (on Modal: setup does it)"


def fetch(
    recipe: Recipe,
    models_dir: Path,
    *,
    hub: ModelHub | None = None,
    newest: bool = False,
    keep_in_use: bool = False,
    report: Report | None = None,
) -> Checkpoint:
    """Download the recipe's checkpoint, compare it with the hub's listing, and make it visible by one rename.

    A checkpoint that is here and as listed is not downloaded again. A damaged one is, and stays until the new one is
    whole. A recipe that names no commit keeps to the one of its first fetch, which the file `in_use` names.

    Args:
        recipe: What to fetch.
        models_dir: The folder of all checkpoints.
        hub: Where from; None means the public hub, or `HF_ENDPOINT`.
        newest: Whether to move a recipe that names no commit to its repository's newest one.
        keep_in_use: Whether what is loaded stays as it is until `use`, though *newest* moved.
        report: See `Report`.

    Raises:
        WeightsMissingError: The recipe has no repository to fetch from.
        ConfigurationError: *newest* was asked of a recipe that names its commit.
        CheckpointError: What came, or what the repository holds, is not a checkpoint of this recipe.
        DiskFullError: The disk has no room for it.
        HubError: The hub did not give it, and no whole checkpoint is here.
    """
    report = report or Report()
    if recipe.repo_id is None:
        return locate(recipe, models_dir)
    if newest and recipe.revision != NEWEST:
        raise ConfigurationError(
            f"recipe {recipe.name} names its commit, {recipe.revision}: a newer one comes with the program"
        )
    hub = hub or ModelHub()
    try:
        revision = _revision_to_fetch(recipe, models_dir, hub, newest=newest)
        listing = _to_fetch(hub, hub.listing(recipe.repo_id, revision, FOLDERS), recipe, report)
    except (HubUnreachableError, HubRateLimitedError) as error:
        if newest or (checkpoint := _whole(recipe, models_dir)) is None:
            raise
        report.note(f"not compared with the model hub, every byte is as it was fetched: {error.detail}")
        return checkpoint
    folder = models_dir / recipe.checkpoint_name / revision
    if not (_is_as_listed(folder, listing) and _is_complete(folder, recipe)):
        _download(hub, listing, recipe, folder, report)
    if recipe.revision == NEWEST and not keep_in_use:
        _write_in_use(folder.parent, revision)
    return Checkpoint.at(folder, gated=recipe.sparse is not None)


def use(recipe: Recipe, models_dir: Path, revision: str) -> Checkpoint:
    """Let *revision* be what is loaded from now on: by the next start, and by a container that runs before its next job.

    Every byte of it is compared with its manifest first.

    Raises:
        ConfigurationError: The recipe's checkpoint ships with the package, or *revision* names no commit.
        WeightsMissingError: It is not here; `command` fetches the recipe's.
        CheckpointError: A file is missing, truncated or altered, or it is not a checkpoint of this recipe.
    """
    if recipe.name == DEMO.name:
        raise ConfigurationError(f"the checkpoint of recipe {recipe.name} ships with the program")
    if not _names_a_revision(recipe, revision):
        raise ConfigurationError(
            f"{revision!r} is no revision; say a whole commit, as `weights list` shows it"
        )
    checkpoint = locate(recipe, models_dir, revision=revision, hashes=True)
    require_complete(checkpoint.folder, recipe)
    _write_in_use(checkpoint.folder.parent, revision)
    return checkpoint


def publish(partial: Path, folder: Path) -> None:
    """Hash the files that were downloaded into *partial*, and make them visible as *folder* by one rename."""
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub client's own notes
    Manifest.of(partial).write(partial)
    with (partial / COMPLETE).open("w", encoding="utf-8") as file:
        os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def revision_in_use(recipe: Recipe, models_dir: Path) -> str | None:
    """Return the revision that the file `in_use` names; None where there is no such file, as before the first fetch.

    Raises:
        CheckpointError: The file names no revision.
    """
    path = models_dir / recipe.checkpoint_name / IN_USE
    try:
        named = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    if not _names_a_revision(recipe, named):
        raise CheckpointError(
            f"{path} holds {named[:60]!r}, which is no revision; write it with: {USE_COMMAND}"
        )
    return named


def naming(recipe: Recipe, models_dir: Path) -> tuple[bytes, int] | None:
    """Return what changes whenever `in_use` is written, be it with the same name; None where there is no such file."""
    path = models_dir / recipe.checkpoint_name / IN_USE
    try:
        return path.read_bytes(), path.stat().st_mtime_ns
    except OSError:
        return None


def _names_a_revision(recipe: Recipe, named: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", named) is not None or (named == recipe.revision != NEWEST)


def _revision_to_fetch(recipe: Recipe, models_dir: Path, hub: ModelHub, *, newest: bool) -> str:
    if recipe.revision != NEWEST:
        return recipe.revision
    kept = None if newest else revision_in_use(recipe, models_dir)
    return kept or hub.commit_of(recipe.repo_id or "", recipe.revision)


def _to_fetch(hub: ModelHub, listing: Listing, recipe: Recipe, report: Report) -> Listing:
    """Return what a start of *recipe* reads of *listing*; the indexes of parts in shards are fetched to know it."""
    listed = [file.path for file in listing.files]
    for text in published_twice(listed):
        report.note(text)
    with TemporaryDirectory() as name:
        if in_shards := indexes(listed):
            hub.download(listing.only(in_shards), Path(name))
        with fixed_by(_not_of(recipe, listing)):
            return listing.only(needed(listed, recipe, Path(name)))


def _download(hub: ModelHub, listing: Listing, recipe: Recipe, folder: Path, report: Report) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent):
        partial = folder.with_name(f"{folder.name}{PARTIAL}")
        _begin(partial, folder, listing)
        with report.following(listing, partial):
            hub.download(listing, partial)
        with fixed_by(_not_of(recipe, listing)):
            require_complete(partial, recipe)
        publish(partial, folder)


def _begin(partial: Path, folder: Path, listing: Listing) -> None:
    """Make *partial* hold what another attempt, or *folder*, has of *listing*, and nothing else."""
    partial.mkdir(exist_ok=True)
    listing.clear(partial)
    for file in listing.files:  # what is here and right is not downloaded again
        here, there = folder / file.path, partial / file.path
        if not there.exists() and file.is_at(here):
            there.parent.mkdir(parents=True, exist_ok=True)
            os.link(here, there)


def _not_of(recipe: Recipe, listing: Listing) -> str:
    return f"the repository {listing.repo_id} is not a checkpoint of recipe {recipe.name}"


def _is_as_listed(folder: Path, listing: Listing) -> bool:
    """Whether the complete checkpoint in *folder* holds what the hub lists, by the hashes of its manifest and its bytes."""
    if not (folder / COMPLETE).exists():
        return False
    try:
        manifest = Manifest.read(folder)
        manifest.check(folder, hashes=True)
    except CheckpointError:
        return False
    for file in listing.files:
        entry = manifest.files.get(file.path)
        if entry is None or entry.size_bytes != file.size_bytes:
            return False
        # Just compared with the manifest, large files need not be hashed again.
        if file.sha256 != entry.sha256 and not (file.sha256 is None and file.is_at(folder / file.path)):
            return False
    return True


def _is_complete(folder: Path, recipe: Recipe) -> bool:
    """Whether *folder* holds what a start reads, and no second set of weights that a person put beside it."""
    try:
        require_complete(folder, recipe)
    except CheckpointError:
        return False
    return True


def _whole(recipe: Recipe, models_dir: Path) -> Checkpoint | None:
    """Return the checkpoint that is here if each of its bytes is as it was fetched and nothing lacks, else None."""
    try:
        checkpoint = locate(recipe, models_dir, hashes=True)
        require_complete(checkpoint.folder, recipe)
    except (CheckpointError, WeightsMissingError):
        return None
    return checkpoint


def _write_in_use(base: Path, revision: str) -> None:
    named = base / f"{IN_USE}{PARTIAL}"
    with named.open("w", encoding="ascii") as file:
        file.write(f"{revision}\n")
        file.flush()
        os.fsync(file.fileno())
    named.replace(base / IN_USE)


def find(recipe: Recipe, models_dir: Path, revision: str | None = None) -> Checkpoint:
    """Return the recipe's checkpoint on this machine, its files not checked: of *revision*, or None for the one in use.

    Raises:
        WeightsMissingError: It is not here; `command` fetches it.
        CheckpointError: The file `in_use` names no revision.
    """
    base = models_dir / recipe.checkpoint_name
    if recipe.name == DEMO.name:
        if not (PACKAGED / DEMO.name).exists():  # the package's own wheel has no weights in it
            command = f"pip install ./anime_studio_demo-{__version__}-py3-none-any.whl"
            raise weights_missing("recipe demo", "this installation", command)
        return Checkpoint(PACKAGED / DEMO.name, DEMO.revision, base / DEMO.revision)
    named = revision or revision_in_use(recipe, models_dir)
    if named is None and recipe.revision != NEWEST:
        named = recipe.revision
    candidates = [base / named] if named else sorted(base.glob("*"), key=lambda path: path.name)
    complete = [path for path in candidates if (path / COMPLETE).exists()]
    if complete:
        newest = max(complete, key=lambda path: (path / COMPLETE).stat().st_mtime_ns)
        return Checkpoint.at(newest, gated=recipe.sparse is not None)
    command = _command_for(recipe.name, base / recipe.revision)
    raise weights_missing(f"recipe {recipe.name}", str(base / (named or "")), command)


def _command_for(recipe: str, folder: Path) -> str:
    """Return the command that brings the checkpoint of *recipe*; *folder* is its place if nobody publishes it."""
    if recipe == TINY_RANDOM.name:
        return f"python -m anime_studio.engine.loading.tiny_random {folder}"
    return f"{FETCH_COMMAND} --recipe {recipe}"


def weights_missing(what: str, where: str, command: str) -> WeightsMissingError:
    """Return the error that says which weights are not *where*, and the *command* that fetches them."""
    return WeightsMissingError(
        f"the weights of {what} are not in {where}; fetch them with: {command}", command=command
    )
