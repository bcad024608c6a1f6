"""Embeddings of prompts, stored in memory and on the disk under a key, so that a repeated prompt costs nothing.

Only finite numbers are stored: one NaN would poison its prompt for ever. A damaged file is ignored and written again.
Both stores are bounded; what was unused for longest goes first. Several threads, and several processes over one folder,
may use it at once.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from anime_studio.core.embeddings import EmbeddingsBounds
from anime_studio.core.errors import EngineError


class EmbeddingsCache:
    """The cache.

    Args:
        bounds: See `EmbeddingsBounds`.
        folder: Where embeddings are stored between runs; None for memory only.
    """

    def __init__(self, bounds: EmbeddingsBounds | None = None, folder: Path | None = None) -> None:
        self._bounds = bounds or EmbeddingsBounds()
        self._folder = folder
        self._memory: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._memory_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str, device: torch.device) -> torch.Tensor | None:
        """Return what is stored under *key*, on *device*; None if nothing is, or nothing that can be used."""
        with self._lock:
            embeddings = self._memory.get(key)
            if embeddings is not None:
                self._memory.move_to_end(key)
                return embeddings
        embeddings = self._from_disk(key)
        if embeddings is None:
            return None
        embeddings = embeddings.to(device)
        self._to_memory(key, embeddings)
        return embeddings

    def put(self, key: str, embeddings: torch.Tensor) -> None:
        """Store *embeddings* under *key*.

        Raises:
            EngineError: They hold NaN or infinity; nothing is stored.
        """
        if not torch.isfinite(embeddings).all():
            raise EngineError(
                "the text encoder gave NaN or infinity; the same prompt may work at the next try"
            )
        self._to_memory(key, embeddings)
        self._to_disk(key, embeddings)

    def _to_memory(self, key: str, embeddings: torch.Tensor) -> None:
        with self._lock:
            before = self._memory.pop(key, None)
            self._memory_bytes += embeddings.nbytes - (0 if before is None else before.nbytes)
            self._memory[key] = embeddings
            while len(self._memory) > self._bounds.memory_max_count or (
                self._memory_bytes > self._bounds.memory_max_bytes
            ):
                self._memory_bytes -= self._memory.popitem(last=False)[1].nbytes

    def _from_disk(self, key: str) -> torch.Tensor | None:
        if self._folder is None:
            return None
        path = self._folder / f"{key}.safetensors"
        try:
            stored: torch.Tensor = load_file(path)["embeddings"]
            os.utime(path)  # used now: it goes last
        except (OSError, SafetensorError, KeyError):
            return None
        return stored if torch.isfinite(stored).all() else None

    def _to_disk(self, key: str, embeddings: torch.Tensor) -> None:
        if self._folder is None:
            return
        temporary = self._folder / f"{key}.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({"embeddings": embeddings.cpu().contiguous()}, temporary)
            temporary.replace(self._folder / f"{key}.safetensors")
            remove_unused(self._folder, self._bounds.max_count, self._bounds.max_bytes)
        except (OSError, SafetensorError):  # a cache that cannot be written costs time, not the job
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def remove_unused(folder: Path, max_count: int, max_bytes: int) -> None:
    """Remove the entries beyond either bound, those unused for longest first, and what a killed process left."""
    stats = []
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".tmp"):
            with suppress(FileNotFoundError):  # another process removed it
                stats.append((path, path.stat()))
    stats.sort(key=lambda entry: entry[1].st_mtime_ns, reverse=True)
    total_bytes = 0
    for index, (path, stat) in enumerate(stats):
        total_bytes += stat.st_size
        if index >= max_count or total_bytes > max_bytes:
            path.unlink(missing_ok=True)
