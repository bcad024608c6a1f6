"""Make the serving layout of a checkpoint, once: `anime-studio weights prepare`.

The source goes through the same loading and packing that every start would take it through, one component at a
time on the CPU, and what comes out is written down. Main memory must hold the largest component: 12 GB for Wan 2.1
1.3B. A kill or a full disk at any moment leaves what was there before (`anime_studio.appearing`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from anime_studio.appearing import appearing
from anime_studio.core.errors import CheckpointError, DiskFullError
from anime_studio.engine.acceleration import TextWeights, packing_asked
from anime_studio.engine.loading import check_folder, decoder_alone, load_part
from anime_studio.engine.prepared_loading import open_form, pack_text, served_tensors
from anime_studio.engine.shards import write_shards
from anime_studio.prepared import (
    LAYOUT_VERSION,
    PREPARE_COMMAND,
    Forms,
    Layout,
    Packing,
    write_manifest,
)
from anime_studio.weights import MANIFEST, check_files, read_manifest, sha256_of

SHARD_BYTES: Final = 512 * 1024**2
"""Twenty files for Wan 2.1 1.3B: few to open, many to fetch at once where each file has a server of its own."""
PARTS: Final = ("text_encoder", "transformer", "vae")
_COPIED: Final = ("model_index.json", "tokenizer", "scheduler", *(f"{part}/config.json" for part in PARTS))

Progress = Callable[[str, int, int], None]
"""Told of each shard: the component, its bytes written so far, and all its bytes."""


def packing_of(device: str, *, accelerate: bool) -> Packing:
    """Return what settings ask for on this machine; see `packing_asked`."""
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return packing_asked(device, accelerate=accelerate, capability=capability)


def prepare(
    forms: Forms,
    packing: Packing,
    progress: Progress = lambda *_: None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Return the form of a checkpoint packed as *packing*, made if it is not there whole.

    Args:
        forms: Of the checkpoint, as located.
        packing: What this machine, or the one that will serve, asks for.
        progress: See `Progress`.
        shard_bytes: Size of a file, at most, unless one tensor is larger.

    Raises:
        CheckpointError: The source is wrong; the detail names the file.
        ConfigurationError: Another process is preparing there.
        DiskFullError: There is no room; nothing is left of the attempt.
        OSError: The disk fails.
    """
    if (ready := _whole(forms, packing)) is not None:
        return ready
    target = forms.folder(packing)
    try:
        with appearing(target) as folder:
            _write(folder, forms, packing, progress, shard_bytes)
    except OSError as error:
        if error.errno not in DiskFullError.errnos:
            raise
        free = shutil.disk_usage(target.parent).free
        raise DiskFullError(
            f"{target} could not be written: {error.strerror}, {free / 1e9:.1f} GB are free now that the attempt is "
            f"removed; make room and run again: {PREPARE_COMMAND} --recipe {target.parent.name}"
        ) from error
    return target


def _whole(forms: Forms, packing: Packing) -> Path | None:
    try:
        form = forms.find(packing)
        if form is not None:  # each byte, or what `verify` refuses would never be mended
            check_files(form, read_manifest(form), hashes=True)
    except CheckpointError:  # damaged, or of an older source: it is made again
        return None
    return form


def _write(folder: Path, forms: Forms, packing: Packing, progress: Progress, shard_bytes: int) -> None:
    source = forms.source
    check_folder(source, weights=True)
    # A form has hashes of its own: what is wrong in the source would be right in it, for good.
    check_files(source, read_manifest(source), hashes=True)
    files: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        tensors = served_tensors(_packed(source / part, packing))
        total, done = sum(tensor.nbytes for tensor in tensors.values()), 0

        def written(size_bytes: int, part: str = part, total: int = total) -> None:
            nonlocal done
            done += size_bytes
            progress(part, done, total)

        (folder / part).mkdir()
        for name, entry in write_shards(folder / part, tensors, shard_bytes, written=written).items():
            files[f"{part}/{name}"] = entry
        del tensors
    files |= _copy(source, folder)
    layout = Layout(
        version=LAYOUT_VERSION,
        packing=packing,
        source_revision=forms.base.name,
        source_sha256=sha256_of(source / MANIFEST),
        shard_bytes=shard_bytes,
    )
    write_manifest(folder, layout, files)
    # What the loader would refuse must not replace what it takes.
    empty = check_folder(folder, weights=False)
    decoder_alone(empty["vae"])
    open_form(folder, empty, getattr(torch, packing.dtype), TextWeights(packing.text_weights))


def _packed(folder: Path, packing: Packing) -> Any:
    model = load_part(folder, getattr(torch, packing.dtype))
    if folder.name == "text_encoder":
        pack_text(model, TextWeights(packing.text_weights), torch.device("cpu"))
    if folder.name == "vae":
        decoder_alone(model)
    return model


def _copy(source: Path, folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for name in _COPIED:
        given = source / name
        for path in (
            (given,) if given.is_file() else sorted(each for each in given.rglob("*") if each.is_file())
        ):
            relative = path.relative_to(source)
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / relative)
            files[relative.as_posix()] = {
                "size_bytes": path.stat().st_size,
                "sha256": sha256_of(folder / relative),
            }
    return files
