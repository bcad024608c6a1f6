"""Decoded or upscaled frames -> the part of them that a clip shows, and no more pixels than it has.

Frames go through in their groups, on their device: a whole clip of 1080p would be 2 GB in float32. What is smaller than
the clip is left to the video encoder's scaler, which is quick on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from anime_studio.core.crop import Crop
from common.schemas import ClipSpec


def fitted(groups: Iterable[torch.Tensor], spec: ClipSpec) -> Iterator[torch.Tensor]:
    """Yield *groups*, (n, 3, height, width) in [-1, 1], cropped, and reduced where they are larger than the clip.

    Height and width are the native ones of *spec*, times a whole number.
    """
    crop = Crop.of(spec)
    for group in groups:
        yield _reduced(_cropped(group, crop, spec.native_height), spec) if crop else group


def _cropped(group: torch.Tensor, crop: Crop, native_height: int) -> torch.Tensor:
    height, width = group.shape[-2:]
    scale = height // native_height
    return group[
        ..., crop.top * scale : height - crop.bottom * scale, crop.left * scale : width - crop.right * scale
    ]


def _reduced(group: torch.Tensor, spec: ClipSpec) -> torch.Tensor:
    height, width = group.shape[-2:]
    if height <= spec.height and width <= spec.width:
        return group
    # A frame at a time: antialiasing works in float32, and a group of 4x frames would be 0.7 GB of it.
    size = (spec.height, spec.width)
    frames = [F.interpolate(frame[None].float(), size, mode="bicubic", antialias=True) for frame in group]
    return torch.cat(frames)
