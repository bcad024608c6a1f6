"""Sleep: weights wait in host memory while a memory snapshot is taken, and the GPU is left nearly empty.

The driver restores GPU memory from a snapshot at 4 to 6 GiB/s (H200, `docs/performance.md`). It only has to pin host
memory again; from there the same bytes are on the GPU ten times as fast. The words are vLLM's: a sleeping engine has its
weights offloaded to CPU memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from anime_studio.engine.memory.pinned import allocate, padded


class WeightOffload:
    """Moves the weights and buffers of *models* between *device* and host memory.

    Args:
        models: Tensors of theirs that are in host memory anyway stay there.
        device: A CUDA device; a CPU for tests.
    """

    def __init__(self, models: Sequence[nn.Module], device: torch.device) -> None:
        self._models, self._device = models, device
        self._storages: list[torch.UntypedStorage] = []
        self._buffer: torch.Tensor | None = None  # a whole one: its parts do not keep it pinned
        self._parts: list[torch.Tensor] = []
        self._offloaded = False

    def offload(self) -> None:
        """Copy the weights to host memory and free their device memory; nothing may compute with them meanwhile.

        The first call allocates the host memory, which later calls use again.

        Raises:
            MemoryError, RuntimeError: Host memory has too little room; the weights stay on the device.
        """
        if self._offloaded:
            return
        if self._buffer is None:
            self._allocate()
        self._synchronize()  # work on any stream may still use the weights
        for storage, part in zip(self._storages, self._parts, strict=True):
            part.copy_(_bytes(storage), non_blocking=True)
        self._synchronize()  # the copies must be complete before anything is freed
        for storage in self._storages:
            storage.resize_(0)
        self._offloaded = True
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def fetch(self) -> None:
        """Copy the weights back, each into new device memory.

        Raises:
            torch.OutOfMemoryError: The device has too little room; the models cannot be used any more.
        """
        if not self._offloaded:
            return
        for storage, part in zip(self._storages, self._parts, strict=True):
            storage.resize_(len(part))
            _bytes(storage).copy_(part, non_blocking=True)
        self._synchronize()
        self._offloaded = False

    def _allocate(self) -> None:
        tensors = [tensor for model in self._models for tensor in (*model.parameters(), *model.buffers())]
        storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == self._device.type]
        # Several tensors may share a storage: the two names of UMT5's embedding table do.
        self._storages = list({storage.data_ptr(): storage for storage in storages}.values())
        sizes = [storage.nbytes() for storage in self._storages]
        shares = [padded(size) for size in sizes]
        self._buffer = allocate(sum(shares), pinned=self._device.type == "cuda")
        self._parts = [
            part[:size] for part, size in zip(torch.split(self._buffer, shares), sizes, strict=True)
        ]

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
