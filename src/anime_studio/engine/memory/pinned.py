"""Page-locked (pinned) host memory, registered with `cudaHostRegister`: the driver copies from and to it by itself.

We compared three allocators on an H200 (4.6 GB of text layers, and 2.2 GB of offloaded weights). `pin_memory=True` made
a resume from a memory snapshot 0.3 s slower than registered memory, because the driver restores its own allocations.
Registered huge pages resume another 0.1 s faster, and a load takes 1 s less. We use huge pages.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import weakref

import torch

_ALIGNMENT_BYTES = 256
"""Of tensors that share a buffer: what `cudaMalloc` aligns to (CUDA C++ Programming Guide, 5.3.2)."""


def padded(size_bytes: int) -> int:
    """Return *size_bytes* rounded up, so that what follows in the same buffer is aligned as on a device."""
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def allocate(size_bytes: int, *, pinned: bool) -> torch.Tensor:
    """Return uninitialised uint8 (size_bytes,) in host memory, *pinned* for a GPU or not.

    It is unpinned when this tensor object goes: keep the tensor itself, not only views of it.

    Raises:
        MemoryError, RuntimeError: There is too little memory, or the driver refuses to pin it.
    """
    if not pinned:
        return torch.empty(size_bytes, dtype=torch.uint8)
    buffer = _in_huge_pages(size_bytes)
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(runtime.cudaHostRegister(buffer.data_ptr(), size_bytes, 0))
    # Unpin before the memory is unmapped; not at the end of the process, which the driver cleans up after.
    weakref.finalize(buffer, runtime.cudaHostUnregister, buffer.data_ptr()).atexit = False
    return buffer


def _in_huge_pages(size_bytes: int) -> torch.Tensor:
    if sys.platform != "linux":
        return torch.empty(size_bytes, dtype=torch.uint8)
    try:
        pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"host memory has no room for {size_bytes} bytes: {error}") from error
    with contextlib.suppress(OSError):  # a kernel without huge pages uses ordinary ones
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
