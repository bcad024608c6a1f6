"""`anime-studio weights prepare`: write a checkpoint once more, as the engine serves it.

The source goes through the loading that every start would otherwise repeat, one model at a time on the
CPU, and the result is written as shards. Host memory must hold the largest model: 12 GB for Wan 2.1 1.3B. A kill or
a full disk at any moment leaves what was there before (`checkpoints.atomic_folder`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
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
from anime_studio.checkpoints.pipeline_files import (
    INDEX,
    UPSCALER,
    UPSCALER_CLASS,
    has_upscaler,
    read_json,
    upscaler_files,
)
from anime_studio.checkpoints.prepared import PREPARE_COMMAND, find_prepared, prepared_folder
from anime_studio.checkpoints.published_upscaler import LICENSE, NAME, PACKAGE, PublishedUpscaler
from anime_studio.checkpoints.store import Checkpoint, check
from anime_studio.core.errors import CheckpointError, DiskFullError
from anime_studio.engine.acceleration import packing_for_settings
from anime_studio.engine.loading.architecture import MODELS, check_source
from anime_studio.engine.loading.components import load_model
from anime_studio.engine.loading.from_shards import open_prepared, served_tensors
from anime_studio.engine.loading.ncnn import convert
from anime_studio.engine.loading.safetensors_file import write_file, write_shards
from anime_studio.engine.upscaling import load_upscaler

SHARD_BYTES: Final = 512 * 1024**2
"""Twenty files for Wan 2.1 1.3B: few to open, and enough to fetch in parallel from storage that serves files apart."""
_COPIED: Final = (INDEX, "tokenizer", "scheduler", *(f"{name}/config.json" for name in MODELS))

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
    published: PublishedUpscaler | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Return the folder of *checkpoint* prepared as *packing*; write it if it is not there, or not all of it.

    Args:
        checkpoint: As located.
        packing: What the machine that will serve asks for.
        progress: See `Progress`.
        published: The upscaler that a checkpoint gets which has none of its own; None to give it none.
        shard_bytes: The largest size of a shard. A tensor larger than this has a shard of its own.

    Raises:
        CheckpointError: A file of the source is wrong; the detail names it.
        ConfigurationError: Another process is preparing there.
        DiskFullError: There is no room; nothing is left of the attempt.
        OSError: The disk fails.
    """
    target = prepared_folder(checkpoint, packing)
    if _is_whole(checkpoint, packing, published):
        return target
    try:
        with atomic_folder(target) as folder:
            _write(folder, checkpoint, packing, progress, published, shard_bytes)
    except OSError as error:
        if error.errno not in DiskFullError.errnos:
            raise
        free = shutil.disk_usage(target.parent).free
        raise DiskFullError(
            f"{target} could not be written: {error.strerror}, {free / 1e9:.1f} GB are free now that the attempt is "
            f"removed; make room and run again: {PREPARE_COMMAND} --recipe {target.parent.name}"
        ) from error
    return target


def _is_whole(checkpoint: Checkpoint, packing: Packing, published: PublishedUpscaler | None) -> bool:
    try:
        folder = find_prepared(checkpoint, packing)
        if folder is None:
            return False
        manifest = Manifest.read(folder)
        manifest.check(folder, hashes=True)  # every hash: `prepare` must fix whatever `verify` refuses
        wants_upscaler = published is not None or has_upscaler(checkpoint.folder)
    except CheckpointError:  # damaged, or prepared from an older source: it is written again
        return False
    return not wants_upscaler or manifest.files.keys() >= set(upscaler_files())


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    packing: Packing,
    progress: Progress,
    published: PublishedUpscaler | None,
    shard_bytes: int,
) -> None:
    source = checkpoint.folder
    check_source(source, gated=checkpoint.gated)
    # The prepared files get hashes of their own, so a wrong byte of the source would pass as right from then on.
    check(checkpoint, hashes=True)
    files = _copy(source, folder, _COPIED)
    if has_upscaler(source):
        files |= _copy(source, folder, upscaler_files())
    elif published is not None:
        files |= _write_upscaler(folder, published)
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
    load_upscaler(folder, packing, torch.device("cpu"))


def _write_model(model: Any, folder: Path, progress: Progress, shard_bytes: int) -> dict[str, FileEntry]:
    tensors = served_tensors(model)
    total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
    files = {}
    for name, entry, tensor_bytes in write_shards(folder, tensors, shard_bytes):
        files[f"{folder.name}/{name}"] = entry
        done += tensor_bytes
        progress(folder.name, done, total)
    return files


def _write_upscaler(folder: Path, published: PublishedUpscaler) -> dict[str, FileEntry]:
    """Write the published upscaler into a prepared checkpoint whose index is there, and name it in the index."""
    converted = convert(published.network, published.weights)
    config, weights = (folder / name for name in upscaler_files())
    config.parent.mkdir()
    origin = {"name": NAME, "source": f"the package {PACKAGE}", "license": LICENSE}
    _write_json(config, asdict(converted.config) | origin)
    files = {upscaler_files()[1]: write_file(weights, converted.tensors)}
    index = folder / INDEX
    _write_json(index, read_json(index) | {UPSCALER: ["anime_studio", UPSCALER_CLASS]})
    return files | {path.relative_to(folder).as_posix(): FileEntry.of(path) for path in (index, config)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy(source: Path, folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    files = {}
    for name in names:
        for path in (source / name, *(source / name).rglob("*")):
            if path.is_file():
                copy = folder / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                files[copy.relative_to(folder).as_posix()] = FileEntry.of(copy)
    return files
