"""Small frames -> frames of several times the size, a few frames at a time as they leave the VAE.

A checkpoint may have one part more than Wan's: a folder `upscaler` with a `config.json` and one weight file. The network
is SRVGGNetCompact: a few 3x3 convolutions at the small size with a PReLU after each, one convolution to the pixels of
the large frame, and the small frame repeated (nearest neighbour) added to the result.

The decoder gives groups of its own sizes; they go through the network in batches of `BATCH` frames. With
`Acceleration.compile_upscaler` the last batch is filled up and what was added is dropped, for no frame sees another: so
`torch.compile` sees one shape for each size of clip. It makes one kernel of each bias and PReLU, and one of all that
follows the last convolution.

Source: Real-ESRGAN (Wang et al., 2021, arXiv:2107.10833) and its repository, `realesrgan/archs/srvgg_arch.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors.torch import load_file
from torch import nn

from anime_studio.checkpoints.manifest import Packing
from anime_studio.checkpoints.pipeline_files import UPSCALER, UPSCALER_WEIGHTS, has_upscaler, read_json
from anime_studio.checkpoints.safetensors_header import check_tensors, read_header
from anime_studio.core.errors import CheckpointError
from anime_studio.engine.acceleration import PLAIN, Acceleration

COLOURS: Final = 3
BATCH: Final = 9
"""Frames upscaled at once: a clip of 81 has nine times as many. Four times 832x480 in float16 they are 0.35 GB."""
CPU_BATCH: Final = 1
"""A CPU's caches hold the layers of one small frame: on two cores the demo's clip takes 1.16 s, and 1.66 s by nines."""
_LIMITS: Final = {"features": 256, "convolutions": 64, "scale": 4}
"""Far above any network of this kind: realesr-animevideov3 has 64 features, 16 convolutions and scale 4."""


@dataclass(frozen=True, slots=True)
class UpscalerConfig:
    """The shape of the network.

    Attributes:
        features: Channels of the inner convolutions, from 1.
        convolutions: Inner convolutions, from features to features, from 1.
        scale: How many times wider and higher a frame becomes, from 1.
    """

    features: int
    convolutions: int
    scale: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the configuration in the file at *path*.

        Raises:
            CheckpointError: The file is missing, or a number in it is missing or out of range; the detail names it.
        """
        given = read_json(path)
        for name, limit in _LIMITS.items():
            value = given.get(name)
            if type(value) is not int or not 1 <= value <= limit:
                raise CheckpointError(f"{path}: {name} is {value!r}, not a whole number from 1 to {limit}")
        return cls(**{name: given[name] for name in _LIMITS})


class Upscaler(nn.Module):
    """The network: frames (n, 3, height, width) in [0, 1] -> (n, 3, scale * height, scale * width), about in [0, 1]."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.features
        layers: list[nn.Module] = [nn.Conv2d(COLOURS, inner, 3, padding=1), nn.PReLU(inner)]
        for _ in range(config.convolutions):
            layers += [nn.Conv2d(inner, inner, 3, padding=1), nn.PReLU(inner)]
        layers.append(nn.Conv2d(inner, COLOURS * config.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        self.shuffle = nn.PixelShuffle(config.scale)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the frames."""
        return next(self.parameters()).dtype

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Upscale *frames*."""
        # A shuffled tensor that repeats each colour is the nearest-neighbour image: one addition at the small size.
        repeated = frames.repeat_interleave(self.config.scale**2, dim=1)
        large: torch.Tensor = self.shuffle(self.body(frames) + repeated)
        return large


class UpscalingStage:
    """Upscales the frames of a clip and measures its own seconds; one clip at a time.

    Args:
        upscaler: On its device in its final dtype.
        acceleration: Whether the network is compiled.
        batch: See `BATCH`, and `CPU_BATCH`.
    """

    def __init__(self, upscaler: Upscaler, acceleration: Acceleration = PLAIN, *, batch: int = BATCH) -> None:
        self._upscaler = upscaler.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._batch, self._compiled = batch, acceleration.compile_upscaler
        self._enlarge = torch.compile(enlarged, fullgraph=True, dynamic=False) if self._compiled else enlarged
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def frames(self, groups: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the frames of *groups*, (n, 3, height, width) in [-1, 1], at the larger size and in the same range.

        They come in batches: at most `batch` frames each, whatever sizes the groups have.
        """
        self._seconds, self._events = 0.0, []
        for batch in _batches(groups, self._batch):
            yield self._timed(batch)

    @property
    def seconds(self) -> float:
        """Seconds that the last clip's batches took; on a GPU only after all its frames are in host memory."""
        on_gpu_ms: float = sum(begun.elapsed_time(ended) for begun, ended in self._events)
        return self._seconds + on_gpu_ms / 1e3

    def _timed(self, batch: torch.Tensor) -> torch.Tensor:
        if batch.is_cuda:
            begun, ended = _event(), _event()
            begun.record()
            large = self._larger(batch)
            ended.record()
            self._events.append((begun, ended))
            return large
        started = time.perf_counter()
        large = self._larger(batch)
        self._seconds += time.perf_counter() - started
        return large

    @torch.inference_mode()
    def _larger(self, batch: torch.Tensor) -> torch.Tensor:
        missing = self._batch - len(batch) if self._compiled else 0
        filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)]) if missing else batch
        small = filled.to(self._upscaler.dtype).contiguous(memory_format=torch.channels_last)
        return self._enlarge(self._upscaler, small)[: len(batch)]


def enlarged(upscaler: Upscaler, small: torch.Tensor) -> torch.Tensor:
    """Return what *upscaler* makes of frames in [-1, 1] and in its dtype, in the same range."""
    # Not `clamp`, which would turn infinity into a colour: the check of finite frames comes after this stage.
    large: torch.Tensor = upscaler(small * 0.5 + 0.5).mul_(2).sub_(1)
    return large


def _batches(groups: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Yield the frames of *groups* again, *size* at a time; the last time perhaps fewer."""
    rest: list[torch.Tensor] = []
    for group in groups:
        *whole, last = torch.split(torch.cat([*rest, group]) if rest else group, size)
        yield from whole
        rest = [last]
        if len(last) == size:
            yield rest.pop()
    yield from rest


def load_upscaler(folder: Path, packing: Packing, device: torch.device) -> Upscaler | None:
    """Return the upscaler of the checkpoint in *folder*; None if its index names none.

    Its weights are in float32 where *packing* is, else in float16: its numbers are small, and 16 bits of them are better
    spent on digits than bfloat16 does.

    Raises:
        CheckpointError: A file of the part is missing, truncated, or holds missing, unexpected, misshapen or not finite
            weights; the detail names the file.
        torch.OutOfMemoryError: The device cannot hold it.
    """
    if not has_upscaler(folder):
        return None
    dtype = torch.float32 if packing.dtype == "float32" else torch.float16
    return read_upscaler(folder / UPSCALER).to(device, dtype)


def read_upscaler(part: Path) -> Upscaler:
    """Return the upscaler whose files are in the folder *part*, in float32 on the CPU; see `load_upscaler` for errors."""
    upscaler = Upscaler(UpscalerConfig.read(part / "config.json"))
    path = part / UPSCALER_WEIGHTS
    expected = {name: tuple(tensor.shape) for name, tensor in upscaler.state_dict().items()}
    check_tensors(path, {path: read_header(path)}, expected)
    upscaler.load_state_dict(_finite_weights(path))
    return upscaler.eval().requires_grad_(False)


def _finite_weights(path: Path) -> dict[str, Any]:
    weights = load_file(path)
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: weight {name} is no floating point number, or holds NaN or infinity"
            )
    return weights


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
