"""Which network makes frames of latents: the checkpoint's own, or a smaller one that was trained to stand in for it.

The smaller ones read the latents of Wan 2.1's VAE and no others; a recipe says which of them fit its checkpoint
(`Recipe.decoders`). They are published apart from any recipe, one file each, so what is pinned is the file's hash.

Sources, read on 2026-11-26: the model card and the file pages of the repository `lightx2v/Autoencoders` (licence, SHA-256,
sizes of 32.2 and 45.3 MB: as many bytes as the shapes below take in float32), its upload 285836c; ModelTC/LightX2V at
f8aee98, `examples/README.md` ("Model Downloads").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Decoder(StrEnum):
    """The choices of `ANIME_STUDIO_DECODER`."""

    FULL = "full"
    """The VAE in the recipe's own checkpoint."""
    LIGHT = "light"
    """LightVAE: the same decoder at a quarter of its width."""
    TINY = "tiny"
    """LightTAE: TAEHV's shape, 2D convolutions only, retrained by LightX2V's authors."""


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """Where a decoder's weights are published.

    Attributes:
        decoder: Whose.
        repo_id: Model repository.
        file_name: The one file that is needed.
        sha256: Of that file, as published.
        license: Of the weights.
    """

    decoder: Decoder
    repo_id: str
    file_name: str
    sha256: str
    license: str


_REPO_ID: Final = "lightx2v/Autoencoders"

PUBLISHED: Final[Mapping[Decoder, DecoderWeights]] = MappingProxyType(
    {
        weights.decoder: weights
        for weights in (
            DecoderWeights(
                Decoder.LIGHT,
                _REPO_ID,
                "lightvaew2_1.safetensors",
                "1821a86dacb322e33da0995e920818f11bac1655d38177586f3ebc35bc7a4ba8",
                "Apache-2.0",
            ),
            DecoderWeights(
                Decoder.TINY,
                _REPO_ID,
                "lighttaew2_1.safetensors",
                "8666e769f449f2d955651564bcadb0c5e12461b50480e67b7241f32c15f11a19",
                "Apache-2.0",
            ),
        )
    }
)
"""Every decoder but the full one."""
