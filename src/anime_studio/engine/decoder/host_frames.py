"""Decoded frames as 8-bit pixels in host memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from anime_studio.core.errors import BadFramesError

HostFrames = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
"""uint8 (frames, height, width, 3), RGB."""


def frames_on_host(groups: Iterable[torch.Tensor]) -> Iterator[HostFrames]:
    """Copy groups of frames, (n, 3, height, width) in [-1, 1], to host memory; from a GPU while the next one is decoded.

    Raises:
        BadFramesError: A group holds NaN or infinity.
    """
    pending: deque[PendingFrames] = deque()
    for group in groups:
        pending.append(PendingFrames(group))
        if len(pending) > (1 if group.is_cuda else 0):
            yield pending.popleft().fetch()
    for frames in pending:
        yield frames.fetch()


class PendingFrames:
    """A group of frames on its way to host memory."""

    def __init__(self, group: torch.Tensor) -> None:
        self._finite = copy_to_host_async(torch.isfinite(group).all())  # before infinity is clamped
        pixels = group.float().add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        self._pixels = copy_to_host_async(pixels.permute(0, 2, 3, 1).contiguous())
        self._copied = torch.cuda.Event() if group.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied is not None:
            self._copied.record()

    def fetch(self) -> HostFrames:
        """Wait for the copy and return the frames."""
        if self._copied is not None:
            self._copied.synchronize()
        if not bool(self._finite):
            raise BadFramesError("the VAE gave NaN or infinity; the checkpoint or device is at fault")
        return self._pixels.numpy()


def copy_to_host_async(values: torch.Tensor) -> torch.Tensor:
    """Start a copy of *values* to pinned host memory, and return its target; on a CPU, return *values*."""
    if not values.is_cuda:
        return values
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return pinned.copy_(values, non_blocking=True)
