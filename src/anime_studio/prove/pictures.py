"""How near two clips are to each other, in numbers and as one sheet of stills for the eye."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

Frames = np.ndarray[Any, np.dtype[np.uint8]]
"""uint8 (frames, height, width, 3), RGB."""

STILLS: Final = 4
_STILL_WIDTH, _LABEL_HEIGHT, _GAP = 240, 18, 4
_BLOCK: Final = 8
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, "Image quality assessment", K1 and K2


def psnr_db(one: Frames, other: Frames) -> float:
    """Return the peak signal-to-noise ratio of two clips of one shape, in dB; infinity for the same pixels."""
    squares = [float(np.mean((a.astype(np.float32) - b) ** 2)) for a, b in zip(one, other, strict=True)]
    error = sum(squares) / len(squares)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(one: Frames, other: Frames) -> float:
    """Return the mean structural similarity of luma (BT.709) in blocks of 8x8 pixels; 1.0 for the same pixels."""
    values = [_ssim_of_frame(_blocks(a), _blocks(b)) for a, b in zip(one, other, strict=True)]
    return sum(values) / len(values)


def _blocks(frame: Frames) -> np.ndarray[Any, Any]:
    luma = frame.astype(np.float64) @ (0.2126, 0.7152, 0.0722)
    height, width = (side - side % _BLOCK for side in luma.shape)
    cut = luma[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return cut.swapaxes(1, 2).reshape(-1, _BLOCK * _BLOCK)


def _ssim_of_frame(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    mean_1, mean_2 = one.mean(1), other.mean(1)
    covariance = ((one - mean_1[:, None]) * (other - mean_2[:, None])).mean(1)
    luminance = (2 * mean_1 * mean_2 + _C1) / (mean_1**2 + mean_2**2 + _C1)
    structure = (2 * covariance + _C2) / (one.var(1) + other.var(1) + _C2)
    return float((luminance * structure).mean())


def write_contact_sheet(clips: Mapping[str, Frames], file: Path) -> None:
    """Write a PNG with one line of stills for each clip, below its name."""
    first = next(iter(clips.values()))
    height = round(_STILL_WIDTH * first.shape[1] / first.shape[2])
    line = _LABEL_HEIGHT + height + _GAP
    sheet = Image.new("RGB", (STILLS * (_STILL_WIDTH + _GAP), line * len(clips)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, frames) in enumerate(clips.items()):
        draw.text((2, row * line + 2), name, fill="black")
        for column, index in enumerate(np.linspace(0, len(frames) - 1, STILLS).round().astype(int)):
            still = Image.fromarray(frames[index]).resize((_STILL_WIDTH, height))
            sheet.paste(still, (column * (_STILL_WIDTH + _GAP), row * line + _LABEL_HEIGHT))
    sheet.save(file)
