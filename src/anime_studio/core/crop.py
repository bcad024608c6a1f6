"""Which rows or columns of a native frame a clip shows: 1080p is wider than 480p, and no picture is stretched.

832x480 is 1.733 to 1 and 1920x1080 is 1.778 to 1. So 12 of the 480 rows go, six above and six below; upright, columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from common.schemas import ClipSpec


@dataclass(frozen=True, slots=True)
class Crop:
    """What is cut off a frame, in pixels of the size that the model draws.

    Attributes:
        top: Rows, from the top.
        bottom: Rows, from the bottom: as many as at the top, or one more.
        left: Columns, from the left.
        right: Columns, from the right: as many as at the left, or one more.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @classmethod
    def of(cls, spec: ClipSpec) -> Self:
        """Return what is cut off the frames of *spec*; nothing at 480p, where the model's own shape is scaled."""
        if spec.resolution.native is spec.resolution:
            return cls()
        width, height = spec.native_width, spec.native_height
        rows = max(0, height - round(width * spec.height / spec.width))
        columns = max(0, width - round(height * spec.width / spec.height))
        return cls(rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)

    def __bool__(self) -> bool:
        """Whether anything is cut off."""
        return self != Crop()
