"""Batches of rendered clips, on the device that trains."""

from __future__ import annotations

import queue
import random
import threading

import numpy as np
import torch

from training.world.render import render
from training.world.scene import Scene, parameters_of, sample_scene


def render_clips(
    parameters: torch.Tensor,
    frames: int,
    height: int,
    width: int,
    generator: torch.Generator | None = None,
    *,
    stride: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render clips, or every *stride*-th frame of them, that begin anywhere in the first four seconds of their motion.

    Returns:
        Pictures, uint8 (clips, 3, frames, height, width); focus in [0, 1], float32 (clips, 1, frames, height, width).
    """
    start_s = 4 * torch.rand(len(parameters), device=parameters.device, generator=generator)
    rendered = render(parameters, frames, height, width, start_s, stride=stride)
    return rendered[:, :3], rendered[:, 3:].float() / 255


def to_levels(pictures: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return uint8 pictures as numbers in [-1, 1]."""
    return pictures.to(dtype) / 127.5 - 1


def to_pictures(levels: torch.Tensor) -> torch.Tensor:
    """Return numbers in [-1, 1] as uint8 pictures."""
    return ((levels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def scenes_and_parameters(
    count: int, rng: random.Random, *, held_out: bool | None = False
) -> tuple[list[Scene], torch.Tensor]:
    """Return *count* scenes and their shader parameters, float32 (count, parameters)."""
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(count)]
    return scenes, torch.from_numpy(np.stack([parameters_of(scene, rng) for scene in scenes]))


class Feeder:
    """Samples parameters of training scenes in the background, *batch* at a time."""

    def __init__(self, batch: int, seed: int, device: torch.device) -> None:
        self._queue: queue.Queue[torch.Tensor] = queue.Queue(16)
        self._device = device
        threading.Thread(target=self._fill, args=(batch, random.Random(seed)), daemon=True).start()

    def _fill(self, batch: int, rng: random.Random) -> None:
        while True:
            self._queue.put(scenes_and_parameters(batch, rng)[1])

    def next(self) -> torch.Tensor:
        """Return parameters of the next batch, on the device."""
        return self._queue.get().to(self._device, non_blocking=True)
