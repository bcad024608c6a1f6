"""A checkpoint's `manifest.json`: the size and SHA-256 of every file and, in a prepared checkpoint, its layout.

    {"files": {"vae/config.json": {"size_bytes": 731, "sha256": "…"}, …},
     "layout": {…}}                                             see `Layout`; absent from a checkpoint as fetched

Errors from here state what is wrong with which file. Who asked adds the command that fixes it (`fixed_by`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from anime_studio.core.cpus import usable_cores
from anime_studio.core.errors import CheckpointError

MANIFEST: Final = "manifest.json"
COMPLETE: Final = "complete"
"""A fetched checkpoint's last file; see `checkpoints.store`."""
LAYOUT_VERSION: Final = 1
HASHED_AT_START_BYTES: Final = 100 * 1024**2
"""Hashing this much takes a fraction of a second. Of larger checkpoints a start compares sizes only."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file.

    Attributes:
        size_bytes: Its size.
        sha256: Its SHA-256, in hex.
    """

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the entry of the file at *path*."""
        return cls(path.stat().st_size, sha256_of(path))


@dataclass(frozen=True, slots=True)
class Packing:
    """What decides the bytes of a prepared checkpoint, besides its source.

    Attributes:
        text_weights: `plain`: as all other weights. Before 0.3 there was `int8` too, which no start loads any more.
        dtype: The dtype of the weights: `bfloat16` for a GPU, `float32` for a CPU. diffusers keeps a few
            of them in float32 everywhere.
    """

    text_weights: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.text_weights}-{self.dtype}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a prepared checkpoint was made.

    Attributes:
        version: Of this format.
        packing: See `Packing`.
        source_revision: The commit of the source.
        source_sha256: SHA-256 of the source's manifest. The revision alone would not do: the packaged checkpoint
            keeps its revision's name while it is being worked on.
        shard_bytes: The largest size of a shard. A tensor larger than this has a shard of its own.
    """

    version: int
    packing: Packing
    source_revision: str
    source_sha256: str
    shard_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint's folder must hold.

    Attributes:
        files: The path of each file, relative to the folder -> its entry.
        layout: How a prepared checkpoint was made; None for a checkpoint as fetched.
    """

    files: Mapping[str, FileEntry]
    layout: Layout | None = None

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Hash every file in *folder* and return its manifest."""
        files = [
            path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, COMPLETE)
        ]
        with ThreadPoolExecutor(usable_cores()) as threads:  # hashing releases the interpreter's lock
            entries = threads.map(FileEntry.of, files)
            return cls(
                {
                    path.relative_to(folder).as_posix(): entry
                    for path, entry in zip(files, entries, strict=True)
                }
            )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return the manifest in *folder*.

        Raises:
            CheckpointError: It is missing, cannot be read, or has a layout of another version.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            layout = content.get("layout")
            if layout is not None:
                if layout["version"] != LAYOUT_VERSION:
                    raise CheckpointError(
                        f"{path} has layout version {layout['version']}, this program reads version {LAYOUT_VERSION}: "
                        "update the program, or remove the folder"
                    )
                layout = Layout(**{**layout, "packing": Packing(**layout["packing"])})
            return cls({name: FileEntry(**entry) for name, entry in content["files"].items()}, layout)
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read ({error!r})") from error

    def write(self, folder: Path) -> None:
        """Write this manifest into *folder*."""
        layout = {} if self.layout is None else {"layout": asdict(self.layout)}
        files = {name: asdict(entry) for name, entry in sorted(self.files.items())}
        text = json.dumps(layout | {"files": files}, indent=2) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(entry.size_bytes for entry in self.files.values())

    def check(self, folder: Path, *, hashes: bool | None = None) -> None:
        """Compare every file in *folder* with its entry.

        Args:
            folder: The checkpoint.
            hashes: Whether to compare hashes after sizes; None for checkpoints up to `HASHED_AT_START_BYTES` only.

        Raises:
            CheckpointError: A file is missing, has another size or hash, or cannot be read; the first one is named.
        """
        paths, entries = [folder / name for name in self.files], self.files.values()
        for path, entry in zip(paths, entries, strict=True):
            _check_size(path, entry)
        if hashes or (hashes is None and self.size_bytes <= HASHED_AT_START_BYTES):
            with ThreadPoolExecutor(usable_cores()) as threads:
                list(threads.map(_check_hash, paths, entries))  # raises for the first one that differs


def _check_size(path: Path, entry: FileEntry) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError:
        raise CheckpointError(f"{path} is missing") from None
    if size_bytes != entry.size_bytes:
        raise CheckpointError(f"{path} has {size_bytes} bytes, the manifest says {entry.size_bytes}")


def _check_hash(path: Path, entry: FileEntry) -> None:
    if sha256_of(path) != entry.sha256:
        raise CheckpointError(f"{path} was altered: its SHA-256 is not the manifest's")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def fixed_by(fix: str) -> Iterator[None]:
    """End each `CheckpointError` with what fixes the checkpoint."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error.detail}; {fix}") from error
