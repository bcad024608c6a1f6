"""Where a recipe's checkpoint lies, how it gets there, and whether it is whole.

    models_dir/<recipe>/<revision>/      immutable, named by the repository's commit
        model_index.json, …              diffusers' layout
        manifest.json                    size and SHA-256 of every file
        complete                         written last: without it there is no checkpoint

Fetching is safe to interrupt and repeat: files are downloaded into `<revision>.partial`, hashed, and the
folder is renamed in one step. The demo checkpoint ships with the package and has a manifest too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anime_studio.core.errors import AnimeStudioError, CheckpointError, UnavailableError, WeightsMissingError
from anime_studio.core.recipes import DEMO, TINY_RANDOM, Recipe

MANIFEST = "manifest.json"
COMPLETE = "complete"
PACKAGED = Path(__file__).parent / "checkpoints"
FETCH_COMMAND = "anime-studio weights fetch"

_NEEDED = ("model_index.json", "scheduler/*", "tokenizer/*", "text_encoder/*", "transformer/*", "vae/*")
_HASH_AT_EACH_START_BYTES = 100 * 1024**2
"""Up to here hashing costs a fraction of a second; beyond, sizes are checked and `verify` does the rest."""

Download = Callable[[Recipe, str, Path], None]
"""Fetch a recipe's files at a commit into a folder."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is on this machine, whole as far as was checked."""

    folder: Path
    revision: str


def locate(recipe: Recipe, models_dir: Path, *, fetch_with: str = FETCH_COMMAND) -> Checkpoint:
    """Return the recipe's checkpoint; small ones are hashed, of large ones the sizes are checked.

    Args:
        recipe: Whose weights.
        models_dir: Where checkpoints are kept.
        fetch_with: The command that fetches weights here, named when they are missing.

    Raises:
        WeightsMissingError: It is not on this machine; `command` fetches it.
        CheckpointError: A file is missing, truncated or altered; the detail names it.
    """
    checkpoint = find(recipe, models_dir, fetch_with=fetch_with)
    check_at_start(checkpoint.folder)
    return checkpoint


def verify(recipe: Recipe, models_dir: Path) -> Checkpoint:
    """Like `locate`, and hash every byte."""
    checkpoint = find(recipe, models_dir)
    check_files(checkpoint.folder, read_manifest(checkpoint.folder), hashes=True)
    return checkpoint


def fetch(
    recipe: Recipe,
    models_dir: Path,
    *,
    download: Download | None = None,
    resolve: Callable[[Recipe], str] | None = None,
) -> Checkpoint:
    """Download the recipe's checkpoint, hash it, and make it visible in one step. Repeating is cheap.

    One that is here and damaged is downloaded anew, and stays until that is whole.

    Args:
        recipe: What to fetch; its revision `main` is resolved to a commit first.
        models_dir: Where checkpoints are kept.
        download: Fetches files; absent means the model hub.
        resolve: Turns a recipe into a commit; absent means the model hub.

    Raises:
        WeightsMissingError: The recipe has no repository to fetch from.
        CheckpointError: What came is not whole.
        UnavailableError: The model hub did not answer.
    """
    if recipe.repo_id is None:
        return locate(recipe, models_dir)
    revision = (resolve or _resolve_on_hub)(recipe)
    folder = models_dir / recipe.name / revision
    if not _is_whole(folder):
        partial = folder.with_name(f"{revision}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        (download or _download_from_hub)(recipe, revision, partial)
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub client's own notes
        write_manifest(partial)
        _mark_complete(partial)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    return find(recipe, models_dir)


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder, read_manifest(folder), hashes=True)
    except CheckpointError:
        return False
    return (folder / COMPLETE).exists()


def write_manifest(folder: Path) -> None:
    """Write size and SHA-256 of every file of a checkpoint into its manifest."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, COMPLETE)
    )
    manifest = {
        str(path.relative_to(folder)): {"size_bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(files, _hashes_of(files), strict=True)
    }
    (folder / MANIFEST).write_text(json.dumps({"files": manifest}, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the manifest's files: relative path -> size_bytes and sha256.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        files: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; remove {folder} and fetch the weights again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove {folder} and fetch the weights again"
        ) from error
    return files


def check_at_start(folder: Path) -> None:
    """Hold every file of a checkpoint against its manifest: by SHA-256 if it is small, by size if it is large.

    Raises:
        CheckpointError: The first file that differs, by name.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest, hashes=size_bytes_of(manifest) <= _HASH_AT_EACH_START_BYTES)


def size_bytes_of(manifest: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the size of all files of a manifest."""
    return sum(int(entry["size_bytes"]) for entry in manifest.values())


def check_files(folder: Path, manifest: Mapping[str, Mapping[str, Any]], *, hashes: bool) -> None:
    """Hold every file against the manifest, by size, and by SHA-256 when *hashes*.

    Raises:
        CheckpointError: The first file that differs, by name.
    """
    for name, entry in manifest.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            raise CheckpointError(f"{path} is missing; remove {folder} and fetch the weights again") from None
        if size != entry["size_bytes"]:
            raise CheckpointError(
                f"{path} has {size} bytes, the manifest says {entry['size_bytes']}; fetch the weights again"
            )
    found = _hashes_of([folder / name for name in manifest]) if hashes else ()
    for (name, entry), sha256 in zip(manifest.items(), found, strict=False):
        if sha256 != entry["sha256"]:
            raise CheckpointError(
                f"{folder / name} was altered: its SHA-256 is not the manifest's; fetch the weights again"
            )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; fetch the weights again") from error


def _hashes_of(paths: Sequence[Path]) -> Iterator[str]:
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        yield from threads.map(sha256_of, paths)


def find(recipe: Recipe, models_dir: Path, *, fetch_with: str = FETCH_COMMAND) -> Checkpoint:
    """Like `locate`, and look into no file.

    Raises:
        WeightsMissingError: It is not on this machine; `command` fetches it.
    """
    if recipe is DEMO:
        return Checkpoint(PACKAGED / DEMO.name, DEMO.revision)
    base = models_dir / recipe.name
    pinned = recipe.revision != "main"
    candidates = [base / recipe.revision] if pinned else sorted(base.glob("*"), key=lambda path: path.name)
    complete = [path for path in candidates if (path / COMPLETE).exists()]
    if complete:
        newest = max(complete, key=lambda path: (path / COMPLETE).stat().st_mtime_ns)
        return Checkpoint(newest, newest.name)
    raise weights_missing(recipe, str(base), fetch_with)


def weights_missing(recipe: Recipe, where: str, fetch_with: str) -> WeightsMissingError:
    """Return the error that says which weights are not *where*, and the command that fetches them."""
    if recipe is TINY_RANDOM:
        command = f"python -m anime_studio.engine.tiny {where}/{recipe.revision}"
    else:
        command = f"{fetch_with} --recipe {recipe.name}"
    return WeightsMissingError(
        f"the weights of recipe {recipe.name} are not in {where}; fetch them with: {command}", command=command
    )


def _mark_complete(folder: Path) -> None:
    with (folder / COMPLETE).open("w", encoding="utf-8") as file:
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _hub_errors(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except AnimeStudioError:
        raise
    except Exception as error:  # the hub client raises its own, its transport's and the system's errors
        raise UnavailableError(
            f"{recipe.repo_id} could not be fetched from the model hub ({type(error).__name__}: {error}); "
            "what has come is kept, run the same command again"
        ) from error


def _resolve_on_hub(recipe: Recipe) -> str:
    if recipe.revision != "main":
        return recipe.revision
    from huggingface_hub import HfApi

    with _hub_errors(recipe):
        commit = HfApi().model_info(recipe.repo_id or "", revision=recipe.revision).sha
    if not commit:
        raise CheckpointError(f"the model hub names no commit for {recipe.repo_id}@{recipe.revision}")
    return commit


def _download_from_hub(recipe: Recipe, revision: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    with _hub_errors(recipe):
        snapshot_download(
            recipe.repo_id or "", revision=revision, local_dir=folder, allow_patterns=list(_NEEDED)
        )
