"""What a stage leaves for people: a curve as PNG, numbers as JSON, pictures side by side."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from training.commit import commit

_SIZE, _MARGIN = (720, 360), 48


class Curve:
    """A value over steps; logarithmic, since losses fall that way."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._points: list[tuple[int, float]] = []

    def add(self, step: int, value: float) -> None:
        """Record *value*; raise as soon as training is broken.

        Raises:
            FloatingPointError: It is NaN or infinite.
        """
        if not math.isfinite(value):
            raise FloatingPointError(f"{self._title}: {value} at step {step}")
        self._points.append((step, value))

    def save(self, path: Path) -> None:
        """Write the curve as PNG."""
        picture = Image.new("RGB", _SIZE, "white")
        pen = ImageDraw.Draw(picture)
        pen.text((_MARGIN, 12), self._title, fill="black")
        if len(self._points) > 1:
            steps = [step for step, _ in self._points]
            levels = [math.log10(max(value, 1e-9)) for _, value in self._points]
            low, high = min(levels), max(max(levels), min(levels) + 1e-6)
            width, height = _SIZE[0] - 2 * _MARGIN, _SIZE[1] - 2 * _MARGIN
            line = [
                (_MARGIN + width * (step - steps[0]) / (steps[-1] - steps[0]), _MARGIN + height * (high - level) / (high - low))
                for step, level in zip(steps, levels, strict=True)
            ]  # fmt: skip
            pen.line(line, fill=(40, 90, 200), width=2)
            pen.text((4, _MARGIN - 6), f"{10**high:.3g}", fill="black")
            pen.text((4, _MARGIN + height - 6), f"{10**low:.3g}", fill="black")
            pen.text((_MARGIN, _MARGIN + height + 14), f"steps {steps[0]} to {steps[-1]}", fill="black")
        pen.rectangle((_MARGIN, _MARGIN, _SIZE[0] - _MARGIN, _SIZE[1] - _MARGIN), outline=(180, 180, 180))
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def measured_on(device: torch.device) -> dict[str, Any]:
    """Return what a table of results must name: device, date, version and commit."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device)
        if on_gpu
        else f"{os.cpu_count()} {platform.machine()} cores",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "torch": torch.__version__,
        "commit": commit(),
    }


def save_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write *values* as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def save_sheet(path: Path, rows: Sequence[torch.Tensor], captions: Sequence[str] | None = None) -> None:
    """Write pictures as a PNG, one row per tensor, each under its caption.

    Args:
        path: The file.
        rows: uint8 (pictures, 3, height, width) each, on any device.
        captions: One line per row.
    """
    strip = 14 if captions else 0
    height, width = rows[0].shape[2:]
    sheet = Image.new("RGB", (rows[0].shape[0] * width, len(rows) * (height + strip)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        top = index * (height + strip)
        if captions:
            pen.text((4, top + 1), captions[index][:170], fill="black")
        strip_of_pictures = row.permute(2, 0, 3, 1).reshape(height, -1, 3).cpu().numpy()
        sheet.paste(Image.fromarray(strip_of_pictures), (0, top + strip))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256).save(path, optimize=True)
