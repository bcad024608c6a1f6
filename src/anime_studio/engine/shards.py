"""Safetensors files as shards: what their headers say, and writing them with their hashes.

The format is the library's own (safetensors README: 8 bytes of header length, JSON, then the data without holes),
so every other tool reads what is written here. It is written by hand so that the hash is taken on the way, no second
copy is made of two-gigabyte tensors, and a full disk is an `OSError` with its number. `shard_reader` reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch

from anime_studio.core.errors import CheckpointError

WRITE_THREADS: Final = 4
"""SHA-256 takes about a second for each 2 GB; the disk is rarely slower."""

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


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file.

    Attributes:
        dtype: As the header spells it: `BF16`.
        shape: Of the tensor.
        begin: Its first byte, counted from the start of the file.
        end: One past its last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype; KeyError for one that no checkpoint of ours holds."""
        return _DTYPES[self.dtype]


def read_header(path: Path) -> dict[str, Entry]:
    """Return the tensors of a safetensors file by name, having checked that it is whole.

    Raises:
        CheckpointError: It is missing, truncated, longer than its header says, or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise CheckpointError(f"{path} is truncated: its header alone is longer than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = {name: _entry(given, 8 + length) for name, given in header.items()}
        end = max((entry.end for entry in entries.values()), default=8 + length)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error!r}") from error
    if size != end:
        state = "truncated" if size < end else "longer than its header says"
        raise CheckpointError(f"{path} is {state}: {size} bytes, expected {end}")
    return entries


def _entry(given: Mapping[str, Any], data: int) -> Entry:
    begin, end = given["data_offsets"]
    return Entry(given["dtype"], tuple(given["shape"]), data + begin, data + end)


def check_tensors(
    where: Path,
    files: Mapping[Path, Mapping[str, Entry]],
    expected: Mapping[str, tuple[int, ...]],
    tied: frozenset[str] = frozenset(),
) -> None:
    """Hold the tensors of a component's files against those that its configuration asks for.

    Args:
        where: The component, for people.
        files: The headers.
        expected: Name and shape of every tensor.
        tied: Names of one and the same tensor: any of them will do.

    Raises:
        CheckpointError: Some are missing, unexpected or misshapen; the first is named.
    """
    found = {name: entry.shape for entries in files.values() for name, entry in entries.items()}
    missing = {name for name in expected.keys() - found.keys() if not (name in tied and found.keys() & tied)}
    if missing:
        raise CheckpointError(f"{where} lacks {len(missing)} weights, the first is {min(missing)}")
    for path, entries in files.items():
        if unexpected := entries.keys() - expected.keys():
            raise CheckpointError(
                f"{path} holds {len(unexpected)} weights of another model, the first is {min(unexpected)}"
            )
        for name, entry in entries.items():
            if entry.shape != expected[name]:
                raise CheckpointError(
                    f"{path}: weight {name} has shape {list(entry.shape)}, "
                    f"the configuration asks for {list(expected[name])}"
                )


def write_shards(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    shard_bytes: int,
    *,
    written: Callable[[int], None],
) -> dict[str, dict[str, Any]]:
    """Write *tensors* into files of about *shard_bytes* in *folder*; a larger tensor has a file of its own.

    Args:
        folder: Is there.
        tensors: On the CPU; in this order, so that what is used together lies together.
        shard_bytes: At most, unless one tensor is larger.
        written: Told the bytes of a file's tensors once it is on the disk.

    Returns:
        For each file name: `size_bytes` and `sha256`.

    Raises:
        OSError: The disk is full or fails.
    """
    groups = {
        folder / f"{index:05d}.safetensors": {name: tensors[name] for name in names}
        for index, names in enumerate(_grouped(tensors, shard_bytes), start=1)
    }
    files: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(WRITE_THREADS) as threads:
        for path, entry in zip(groups, threads.map(_write, groups, groups.values()), strict=True):
            files[path.name] = entry
            written(sum(tensor.nbytes for tensor in groups[path].values()))
    return files


def _grouped(tensors: Mapping[str, torch.Tensor], shard_bytes: int) -> Iterator[list[str]]:
    group: list[str] = []
    room = shard_bytes
    for name, tensor in tensors.items():
        if group and tensor.nbytes > room:
            yield group
            group, room = [], shard_bytes
        group.append(name)
        room -= tensor.nbytes
    if group:
        yield group


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    # Wide numbers first keeps each tensor aligned to its own width, as the library's own files are.
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
        parts: Iterator[bytes | memoryview] = (_bytes_of(tensors[name]) for name in ordered)
        for part in chain([struct.pack("<Q", len(text)), text], parts):
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return {"size_bytes": 8 + len(text) + end, "sha256": digest.hexdigest()}


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    data: memoryview = flat_bytes(tensor.detach().contiguous()).numpy().data
    return data


def flat_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a contiguous tensor, where they lie."""
    return tensor.reshape(-1).view(torch.uint8)
