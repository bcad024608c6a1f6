"""Whether a combination of fast paths fits a card's memory, so that one that cannot is not tried.

A need is the peak of torch's own count, measured on an H100 with Wan 2.1 1.3B's shape at 832x480, 81 frames, the text
encoder elsewhere. Where nothing was measured nothing is known, and the combination is tried. A need is the least: kernels
and the allocator's rounding come on top. Importing this module loads no torch.

Sources: benchmarks/results/cold_start_h100.json, the start `plain` (every fast path, all 30 layers); fallback_h100.json,
differences between rows of 6 layers. Of the smaller decoders only the memory that torch keeps was measured, not what it
needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import Recipe
from anime_studio.engine.acceleration import Acceleration

GIB: Final = 1024**3
_ALL_PATHS_BYTES: Final = 6_871_195_648
_SHAPE: Final = (832 * 480, 81)
"""Pixels of a frame, and frames."""
_DECODE_CHUNK: Final = 2
_CHUNKS_OF_ONE_GIB: Final = 4.17 - 5.51
_PLAIN_NORMS_GIB: Final = 13.69 - 5.51
_PLAIN_NORMS_IN_CHUNKS_OF_ONE_GIB: Final = 8.47 - 5.73
"""Both rows have no fast path in the denoiser."""
_BFLOAT16_LINEARS_GIB: Final = (5.74 - 5.51) * 30 / 6
"""Weights in two bytes instead of one, of all layers."""


@dataclass(frozen=True, slots=True)
class CardMemory:
    """A card's memory in bytes, now: *free_bytes* is what this process may still take."""

    free_bytes: int
    total_bytes: int


def needed_bytes(recipe: Recipe, decoder: Decoder, options: Acceleration) -> int | None:
    """Return the least of a card's memory that *options* need, without the text encoder; None where none was measured."""
    pixels = max(width * height for width, height in recipe.native_sizes.values())
    if decoder is not Decoder.FULL or pixels < _SHAPE[0] or recipe.max_frames < _SHAPE[1]:
        return None
    more_gib = _decoding_gib(options)
    if more_gib is None:
        return None
    if not (options.fused_denoiser and options.fp8_linears):
        more_gib += _BFLOAT16_LINEARS_GIB
    return _ALL_PATHS_BYTES + int(more_gib * GIB)


def _decoding_gib(options: Acceleration) -> float | None:
    """Return what the decode takes beyond that of every fast path; None where that was not measured."""
    if options.decode_chunk == 1:
        return _CHUNKS_OF_ONE_GIB if options.fused_norms else _PLAIN_NORMS_IN_CHUNKS_OF_ONE_GIB
    if options.decode_chunk == _DECODE_CHUNK:
        return 0.0 if options.fused_norms else _PLAIN_NORMS_GIB
    return None


def too_little(recipe: Recipe, card: CardMemory, least_bytes: int, text_bytes: int) -> str:
    """Return why no clip can be drawn on *card*: what is needed, what is there, and what to set.

    Args:
        recipe: Which is to be served.
        card: As it was found.
        least_bytes: Of the smallest combination, with the text encoder where that is on the card.
        text_bytes: The text encoder's part of them; 0 where it is elsewhere.
    """
    text = f", {text_bytes / GIB:.1f} of them for the text encoder" if text_bytes else ""
    ways = ["ANIME_STUDIO_TEXT=cpu"] if text_bytes else []
    smaller = [decoder for decoder in recipe.decoders if decoder is not Decoder.FULL]
    ways += [f"ANIME_STUDIO_DECODER={smaller[0]}"] if smaller else []
    ways += ["ANIME_STUDIO_DEVICE=cpu with ANIME_STUDIO_RECIPE=demo"]
    close = "close what else uses it, or " if least_bytes <= card.total_bytes else ""
    return (
        f"recipe {recipe.name} needs {least_bytes / GIB:.1f} GiB of the GPU's memory at least (measured on an H100)"
        f"{text}; {card.free_bytes / GIB:.1f} of {card.total_bytes / GIB:.1f} GiB are free; "
        f"{close}set {' or '.join(ways)}"
    )
