"""Safetensors files: writing them as shards, and the dtypes of their tensors (`checkpoints.safetensors_header` reads).

The format is the library's own, so every other tool reads these shards. We write them ourselves for three reasons: the
hash is computed while writing, two-gigabyte tensors are not copied first, and a full disk raises an `OSError` with its
number. `parallel_reader` reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Final

import torch

from anime_studio.checkpoints.manifest import FileEntry
from anime_studio.checkpoints.safetensors_header import Entry

WRITE_THREADS: Final = 4
"""SHA-256 takes a thread about a second for each 2 GB; disks are rarely slower."""

_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


def torch_dtype(entry: Entry) -> torch.dtype:
    """Return the tensor's dtype; KeyError for one that none of our checkpoints has."""
    return _DTYPES[entry.dtype]


def write_shards(
    folder: Path, tensors: Mapping[str, torch.Tensor], shard_bytes: int
) -> Iterator[tuple[str, FileEntry, int]]:
    """Write *tensors* into files of *folder*, and yield the name, entry and bytes of tensors of each file written.

    Args:
        folder: An existing folder.
        tensors: On the CPU. Files keep this order, so that tensors used together are stored together.
        shard_bytes: The most bytes of tensors in a file, unless one tensor is larger.

    Raises:
        OSError: The disk is full or fails.
    """
    shards = {
        folder / f"{index:05d}.safetensors": {name: tensors[name] for name in names}
        for index, names in enumerate(_grouped(tensors, shard_bytes), start=1)
    }
    with ThreadPoolExecutor(WRITE_THREADS) as threads:
        for path, entry in zip(shards, threads.map(write_file, shards, shards.values()), strict=True):
            yield path.name, entry, sum(tensor.nbytes for tensor in shards[path].values())


def _grouped(tensors: Mapping[str, torch.Tensor], shard_bytes: int) -> Iterator[list[str]]:
    group: list[str] = []
    left_bytes = shard_bytes
    for name, tensor in tensors.items():
        if group and tensor.nbytes > left_bytes:
            yield group
            group, left_bytes = [], shard_bytes
        group.append(name)
        left_bytes -= tensor.nbytes
    if group:
        yield group


def write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileEntry:
    """Write *tensors*, which are on the CPU, into one file, and return its entry.

    Raises:
        OSError: The disk is full or fails.
    """
    # Widest dtypes first: each tensor is then aligned to its element size, as in the library's own files.
    ordered = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header, end = {}, 0
    for name in ordered:
        tensor = tensors[name]
        offsets = [end, end + tensor.nbytes]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        flat = (flat_bytes(tensors[name].detach().contiguous()) for name in ordered)
        parts: Iterator[bytes | memoryview] = (tensor.numpy().data for tensor in flat)
        for part in chain([struct.pack("<Q", len(text)), text], parts):
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(size_bytes=8 + len(text) + end, sha256=digest.hexdigest())


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous tensor, without a copy."""
    return tensor.reshape(-1).view(torch.uint8)
