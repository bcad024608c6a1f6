"""Safetensors files: their headers, read without torch and checked against the file and against a model.

The format is the library's own (safetensors README): 8 bytes of header length, JSON, then the data without gaps.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anime_studio.core.errors import CheckpointError


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


Headers = Mapping[Path, Mapping[str, Entry]]
"""For each file its tensors by name."""


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
    except (
        OSError,
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error!r}") from error
    if size != end:
        state = "truncated" if size < end else "longer than its header says"
        raise CheckpointError(f"{path} is {state}: {size} bytes, expected {end}")
    return entries


def _entry(given: Mapping[str, Any], data: int) -> Entry:
    begin, end = given["data_offsets"]
    return Entry(given["dtype"], tuple(given["shape"]), data + begin, data + end)


def check_tensors(
    where: Path, files: Headers, expected: Mapping[str, tuple[int, ...]], tied: frozenset[str] = frozenset()
) -> None:
    """Compare the tensors in a component's files with those that its configuration asks for.

    Args:
        where: The component, for people.
        files: The headers.
        expected: Name and shape of every tensor.
        tied: Names of one and the same tensor; the files must have one of them.

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
