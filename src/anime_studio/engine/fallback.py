"""What a start does when a device refuses a fast path: it gives up that path alone, in a stated order.

A failure names the part of the engine it happened in. The paths of that part are dropped one at a time, the one that
costs least first, then all of them together; the other parts keep theirs. docs/performance.md has what each is worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from anime_studio.core.errors import CheckpointError, OutOfMemoryError
from anime_studio.engine.acceleration import Acceleration, Attention


class Part(StrEnum):
    """A part of the engine that has fast paths of its own."""

    DENOISER = "denoiser"
    DECODER = "decoder"
    UPSCALER = "upscaler"


class PathRefusedError(Exception):
    """A fast path failed, whatever was raised; *part* says where."""

    def __init__(self, part: Part, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.part = part


@contextmanager
def paths_of(part: Part) -> Iterator[None]:
    """Raise what goes wrong inside as a `PathRefusedError` of *part*; broken files and lack of memory pass through."""
    try:
        yield
    except (CheckpointError, OutOfMemoryError, PathRefusedError):
        raise
    except Exception as error:  # Triton, cuDNN and inductor have no common base of their errors
        raise PathRefusedError(part, error) from error


_Changes = Mapping[str, Any]
ORDER: Final[Mapping[Part, tuple[tuple[str, _Changes], ...]]] = MappingProxyType(
    {
        Part.DENOISER: (
            ("attention", {"attention": Attention.SDPA}),
            ("fp8_linears", {"fp8_linears": False}),
            ("compile_blocks", {"compile_blocks": False}),
            (
                "fused_denoiser",
                {
                    "fused_denoiser": False,
                    "attention": Attention.SDPA,
                    "fp8_linears": False,
                    "compile_blocks": False,
                },
            ),
        ),
        Part.DECODER: (
            ("compile_decoder", {"compile_decoder": False}),
            ("fused_norms", {"fused_norms": False}),
            ("decode_chunk", {"fused_norms": False, "compile_decoder": False, "decode_chunk": 1}),
        ),
        Part.UPSCALER: (("compile_upscaler", {"compile_upscaler": False}),),
    }
)
"""For each part its fast paths in the order in which they are dropped; the last entry of a part is its plain path."""


class Fallback:
    """The options of a start, and what it may drop next.

    Args:
        options: What suits the device.
    """

    def __init__(self, options: Acceleration) -> None:
        self._options = options
        self._left = {part: iter(entries) for part, entries in ORDER.items()}
        self._dropped: dict[Part, tuple[str, _Changes]] = {}
        self._small_chunks = False

    @property
    def options(self) -> Acceleration:
        """The options to try now."""
        options = self._options
        for _, changes in self._dropped.values():
            options = replace(options, **changes)
        return replace(options, decode_chunk=1) if self._small_chunks else options

    @property
    def refused(self) -> tuple[str, ...]:
        """The names of the paths that are dropped."""
        names = [name for name, _ in self._dropped.values()]
        return (*names, "decode_chunk") if self._small_chunks else tuple(names)

    def drop_next(self, part: Part) -> bool:
        """Drop the next path of *part*, and take the one before it back; return whether there was another."""
        before = self.options
        for entry in self._left[part]:
            self._dropped[part] = entry
            if self.options not in (before, self._options):
                return True
        return False

    def take_less_memory(self) -> bool:
        """Decode in the smallest chunks; return whether that was not tried before."""
        if self._small_chunks or self._options.decode_chunk == 1:
            return False
        self._small_chunks = True
        return True
