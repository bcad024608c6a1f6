"""`anime-studio weights prepare`: write a checkpoint once more, as the engine serves it.

The source goes through the loading that every start would otherwise repeat, one model at a time on the
CPU, and the result is written as shards. Host memory must hold the largest model: 12 GB for Wan 2.1 1.3B. A kill or
a full disk at any moment leaves what was there before (`checkpoints.atomic_folder`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from anime_studio.checkpoints.atomic_folder import atomic_folder
from anime_studio.checkpoints.manifest import (
    LAYOUT_VERSION,
    MANIFEST,
    FileEntry,
    Layout,
    Manifest,
    Packing,
    sha256_of,
)
from anime_studio.checkpoints.prepared import PREPARE_COMMAND, find_prepared, prepared_folder
from anime_studio.checkpoints.store import Checkpoint, check
from anime_studio.core.errors import CheckpointError, DiskFullError
from anime_studio.engine.acceleration import packing_for_settings
from anime_studio.engine.loading.architecture import MODELS, check_source
from anime_studio.engine.loading.components import load_model
from anime_studio.engine.loading.from_shards import open_prepared, served_tensors
from anime_studio.engine.loading.safetensors_file import write_shards

SHARD_BYTES: Final = 512 * 1024**2
"""Twenty files for Wan 2.1 1.3B: few to open, and enough to fetch in parallel from storage that serves files apart."""
_COPIED: Final = ("model_index.json", "tokenizer", "scheduler", *(f"{name}/config.json" for name in MODELS))

Progress = Callable[[str, int, int], None]
"""Called after each shard with the model's name, its bytes written so far, and all its bytes."""


def packing_of(device: str) -> Packing:
    """Return the packing that *device*, as settings name it, asks for on this machine."""
    return packing_for_settings(device, has_gpu=torch.cuda.is_available())


def prepare(
    checkpoint: Checkpoint,
    packing: Packing,
    progress: Progress = lambda *_: None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Return the folder of *checkpoint* prepared as *packing*; write it if it is not there or not whole.

    Args:
        checkpoint: As located.
        packing: What the machine that will serve asks for.
        progress: See `Progress`.
        shard_bytes: The largest size of a shard. A tensor larger than this has a shard of its own.

    Raises:
        CheckpointError: A file of the source is wrong; the detail names it.
        ConfigurationError: Another process is preparing there.
        DiskFullError: There is no room; nothing is left of the attempt.
        OSError: The disk fails.
    """
    target = prepared_folder(checkpoint, packing)
    if _is_whole(checkpoint, packing):
        return target
    try:
        with atomic_folder(target) as folder:
            _write(folder, checkpoint, packing, progress, shard_bytes)
    except OSError as error:
        if error.errno not in DiskFullError.errnos:
            raise
        free = shutil.disk_usage(target.parent).free
        raise DiskFullError(
            f"{target} could not be written: {error.strerror}, {free / 1e9:.1f} GB are free now that the attempt is "
            f"removed; make room and run again: {PREPARE_COMMAND} --recipe {target.parent.name}"
        ) from error
    return target


def _is_whole(checkpoint: Checkpoint, packing: Packing) -> bool:
    try:
        folder = find_prepared(checkpoint, packing)
        if folder is not None:  # compare every hash: `prepare` must fix whatever `verify` refuses
            Manifest.read(folder).check(folder, hashes=True)
    except CheckpointError:  # damaged, or prepared from an older source: it is written again
        return False
    return folder is not None


def _write(
    folder: Path, checkpoint: Checkpoint, packing: Packing, progress: Progress, shard_bytes: int
) -> None:
    source = checkpoint.folder
    check_source(source, gated=checkpoint.gated)
    # The prepared files get hashes of their own, so a wrong byte of the source would pass as right from then on.
    check(checkpoint, hashes=True)
    files = _copy(source, folder)
    for name in MODELS:
        files |= _write_model(
            load_model(source / name, getattr(torch, packing.dtype), gated=checkpoint.gated),
            folder / name,
            progress,
            shard_bytes,
        )
    layout = Layout(
        version=LAYOUT_VERSION,
        packing=packing,
        source_revision=checkpoint.revision,
        source_sha256=sha256_of(source / MANIFEST),
        shard_bytes=shard_bytes,
    )
    Manifest(files, layout).write(folder)
    # Open the result as the loader will: files that do not load must not replace files that do.
    open_prepared(folder, packing, gated=checkpoint.gated)


def _write_model(model: Any, folder: Path, progress: Progress, shard_bytes: int) -> dict[str, FileEntry]:
    tensors = served_tensors(model)
    total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
    files = {}
    for name, entry, tensor_bytes in write_shards(folder, tensors, shard_bytes):
        files[f"{folder.name}/{name}"] = entry
        done += tensor_bytes
        progress(folder.name, done, total)
    return files


def _copy(source: Path, folder: Path) -> dict[str, FileEntry]:
    files = {}
    for name in _COPIED:
        for path in (source / name, *(source / name).rglob("*")):
            if path.is_file():
                copy = folder / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                files[copy.relative_to(folder).as_posix()] = FileEntry.of(copy)
    return files
