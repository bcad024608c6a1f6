"""What a deployment costs: a clip alone, an evening with so many clips an hour, and a month of evenings. Projected.

A GPU container bills from its start to its end. It starts when a clip finds none, draws, idles for
`scaledown_window_s`, and stops. The text container does the same beside it, if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RESTORE_S: Final = 1.6
"""From a GPU memory snapshot: 0.49 s measured on an H100, and 3.20 GB read at 3 GB/s, rounded up (docs/performance.md)."""
PLAIN_START_S: Final = 27.7
"""Without a snapshot, 18.4 s of it for imports: an H100 with 16 cores, prepared weights in the page cache, kernels in
torch's cache, at 92ebbfa; 28.4 s at 8bd5e2e (cold_start_h100.json). With the two cores of a container it is longer;
nobody has measured that."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What decides the cost of a show.

    Attributes:
        clip_s: The GPU's seconds for a clip.
        gpu_usd_per_s: What a second of the GPU container costs.
        text_usd_per_s: What a second of the text container costs; 0 where the GPU container encodes the text.
        scaledown_window_s: For which an idle container waits.
        start_s: Seconds of a start.
        always_on: Whether a container is kept for the whole show.
    """

    clip_s: float
    gpu_usd_per_s: float
    text_usd_per_s: float
    scaledown_window_s: float
    start_s: float
    always_on: bool = False

    @property
    def usd_per_s(self) -> float:
        """A second of both containers."""
        return self.gpu_usd_per_s + self.text_usd_per_s

    @property
    def burst_usd(self) -> float:
        """A clip of a GPU that always has a next one."""
        return self.clip_s * self.usd_per_s

    def lone_clip_usd(self, start_s: float | None = None) -> float:
        """Return the dollars of one clip from sleep to sleep; *start_s* in place of the usual start."""
        awake_s = (self.start_s if start_s is None else start_s) + self.clip_s + self.scaledown_window_s
        return awake_s * self.usd_per_s

    def hour_usd(self, clips_per_hour: float) -> float:
        """Return the dollars of an hour of a show whose clips come evenly.

        More clips than one GPU can draw in the hour take further GPUs: their drawing is added.
        """
        between_s = 3600 / clips_per_hour
        drawing_usd = clips_per_hour * self.clip_s * self.usd_per_s
        if self.always_on or between_s <= self.clip_s + self.scaledown_window_s:
            return max(3600 * self.usd_per_s, drawing_usd)
        return clips_per_hour * self.lone_clip_usd()
