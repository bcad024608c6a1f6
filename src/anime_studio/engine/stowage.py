"""Weights that wait in main memory while a memory snapshot is taken, and leave the GPU empty.

The driver restores what a process holds on the GPU at 4 to 6 GiB/s (H200, `docs/performance.md`). From main memory that
it only has to lock again, the same bytes are back ten times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from anime_studio.engine.locked_memory import padded, room


class Stowage:
    """Room in main memory for the weights of *models*, and their way there and back.

    Args:
        models: Their weights and buffers on *device* take part; those in main memory stay where they are.
        device: A CUDA device; a CPU for tests.

    Raises:
        MemoryError, RuntimeError: Main memory has no room for them.
    """

    def __init__(self, models: Sequence[nn.Module], device: torch.device) -> None:
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == device.type]
        # Layers that take turns in one place are parts of one storage.
        self._storages = list({storage.data_ptr(): storage for storage in storages}.values())
        sizes = [storage.nbytes() for storage in self._storages]
        shares = [padded(size) for size in sizes]
        self._room = room(sum(shares), locked=device.type == "cuda")
        self._homes = [part[:size] for part, size in zip(torch.split(self._room, shares), sizes, strict=True)]
        self._device = device
        self._away = False

    def stow(self) -> None:
        """Copy the weights to main memory and give up their places; nothing may compute with them meanwhile."""
        if self._away:
            return
        self._wait()  # for whoever still works with them, on whatever stream
        for storage, home in zip(self._storages, self._homes, strict=True):
            home.copy_(_bytes(storage), non_blocking=True)
        self._wait()  # before anything is given up
        for storage in self._storages:
            storage.resize_(0)
        self._away = True

    def fetch(self) -> None:
        """Bring them back, each into a new place.

        Raises:
            torch.OutOfMemoryError: The device has no room; the models cannot be used any more.
        """
        if not self._away:
            return
        for storage, home in zip(self._storages, self._homes, strict=True):
            storage.resize_(len(home))
            _bytes(storage).copy_(home, non_blocking=True)
        self._wait()
        self._away = False

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
