"""What torch raises, as errors of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from anime_studio.core.errors import AnimeStudioError, EngineError, OutOfMemoryError

_LACK_OF_MEMORY: Final = (
    "not enough memory",  # Windows: c10/core/impl/alloc_cpu.cpp
    "can't allocate memory",  # Linux: the same file
    "cannot allocate memory",  # Linux: the system's own words, as mmap's (`strerror(ENOMEM)`)
    "std::bad_alloc",
    "out of memory",  # CUDA: cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
    "alloc_failed",  # cuBLAS and cuDNN: …_STATUS_ALLOC_FAILED
)


def is_lack_of_memory(error: BaseException) -> bool:
    """Return whether *error* says that the GPU or this machine has no memory left, in the words of any system."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in text for words in _LACK_OF_MEMORY)


@contextmanager
def torch_errors() -> Iterator[None]:
    """Raise `OutOfMemoryError` for a lack of memory, on the GPU or the host, and `EngineError` for other failures."""
    try:
        yield
    except AnimeStudioError:
        raise
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemoryError(f"the GPU ran out of memory: {error}") from error
    except (MemoryError, RuntimeError, OSError) as error:
        if is_lack_of_memory(error):
            where = (
                "the GPU"
                if any(word in str(error).lower() for word in ("cuda", "cublas", "cudnn"))
                else "this machine"
            )
            raise OutOfMemoryError(f"{where} ran out of memory: {error}") from error
        if isinstance(error, OSError):
            raise
        raise EngineError(f"the model failed: {error}") from error
