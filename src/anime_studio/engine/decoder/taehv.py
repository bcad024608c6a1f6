"""The tiny decoder: TAEHV's shape for Wan 2.1, walked a few latent frames at a time.

Only 2D convolutions and ReLU; time enters where a block sees the frame before (`_Memory`) and where one frame becomes
two. Weights come in the layout that is published and are merged once, which changes nothing but rounding:

- Doubling the size by repeating pixels, a 1x1 convolution that makes frames of channels, and a 3x3 convolution are
  linear and follow one another: one 2x2 convolution for each of four kinds of pixel does all three
  (`streaming.phase_weights`). 9.1 instead of 11.4 TFLOP for 81 frames of 480x832, by count.
- A chunk always has the same number of latent frames; what the last one lacks is filled up and dropped, for nothing in
  this decoder looks ahead. So `torch.compile` sees one shape for each size of clip.

Sources: madebyollin/taehv at 1f14a56, `taehv.py` (`TAEHV.decoder`, `MemBlock`, `TGrow`, `decode_video`): names, shapes,
order of channels, the three frames dropped at the start. ModelTC/LightX2V at f8aee98, `video_encoders/hf/tae.py` and
`wan/vae_tiny.py`: the same for `lighttaew2_1`, which was retrained on latents that are not normalised (`need_scaled`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import nn

from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.decoder.streaming import Frames, phase_weights

LATENT_CHANNELS: Final = 16
WIDTHS: Final = (256, 128, 64, 64)
"""Channels of the three stages and of the last convolution's input."""
FRAMES_GROWN: Final = (1, 2, 2)
"""Frames that each stage makes of one."""
FRAMES_POOLED: Final = (2, 2, 1)
"""Frames of which each of the encoder's stages makes one."""
ENCODER_WIDTH: Final = 64
BLOCKS: Final = 3
"""Memory blocks of a stage."""
FRAMES_OF_A_LATENT: Final = 4
FRAMES_DROPPED: Final = 3
"""Of the first latent frame's four: the decoder was trained so that one is left, as with the full VAE."""
LATENT_BOUND: Final = 3.0
"""`Clamp` of the reference: tanh(x / 3) * 3."""
CHUNK: Final = 3
"""Latent frames decoded at once: 21, a clip of 81 frames, are seven chunks."""
_TENSOR_CORE_CHANNELS: Final = 8

Past = list[torch.Tensor]
"""For each memory block the frame it saw last, (1, channels, height, width)."""


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of the published file, its encoder's too, which nothing here uses.

    The numbers count the layers of the reference. Encoder: convolution 0, ReLU 1, then five layers for each stage
    (frames, convolution, three memory blocks), convolution 17. Decoder: bound 0, convolution 1, ReLU 2, then six layers
    for each stage (three memory blocks, doubling, frames, convolution), ReLU 21, convolution 22.
    """
    shapes = _biased("encoder.0", ENCODER_WIDTH, 3)
    for stage, frames in enumerate(FRAMES_POOLED):
        first = 2 + 5 * stage
        shapes[f"encoder.{first}.conv.weight"] = (ENCODER_WIDTH, frames * ENCODER_WIDTH, 1, 1)
        shapes[f"encoder.{first + 1}.weight"] = (ENCODER_WIDTH, ENCODER_WIDTH, 3, 3)
        for index in range(first + 2, first + 2 + BLOCKS):
            shapes |= _memory_shapes(f"encoder.{index}", ENCODER_WIDTH)
    shapes |= _biased("encoder.17", LATENT_CHANNELS, ENCODER_WIDTH)
    shapes |= _biased("decoder.1", WIDTHS[0], LATENT_CHANNELS)
    for stage, (width, frames, following) in enumerate(zip(WIDTHS, FRAMES_GROWN, WIDTHS[1:], strict=False)):
        for block in _blocks(stage):
            shapes |= _memory_shapes(block, width)
        grow, conv = _growth(stage)
        shapes[f"{grow}.weight"] = (frames * width, width, 1, 1)
        shapes[f"{conv}.weight"] = (following, width, 3, 3)
    return shapes | _biased("decoder.22", 3, WIDTHS[-1])


def _memory_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        **_biased(f"{name}.conv.0", width, 2 * width),
        **_biased(f"{name}.conv.2", width, width),
        **_biased(f"{name}.conv.4", width, width),
    }


def _biased(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}


def _blocks(stage: int) -> list[str]:
    first = 3 + 6 * stage
    return [f"decoder.{index}" for index in range(first, first + BLOCKS)]


def _growth(stage: int) -> tuple[str, str]:
    return f"decoder.{7 + 6 * stage}.conv", f"decoder.{8 + 6 * stage}"


class Taehv(nn.Module):
    """The merged weights, and a chunk's way through them.

    Args:
        config: Of the VAE that it stands in for: `latents_mean` and `latents_std`, one number a channel.
        weights: By the published names, float32.
    """

    def __init__(self, config: Any, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.config = config
        self.conv_in = _Conv(weights["decoder.1.weight"], weights["decoder.1.bias"])
        self.stages = nn.ModuleList(_Stage(weights, stage) for stage in range(len(FRAMES_GROWN)))
        self.conv_out = _Conv(weights["decoder.22.weight"], weights["decoder.22.bias"])

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the frames."""
        return self.conv_in.weight.dtype

    def forward(self, latents: Frames, past: Past) -> tuple[Frames, Past]:
        """Decode a chunk.

        Args:
            latents: (n, 16, height, width), as the decoder was trained to see them.
            past: What `empty_past` or the chunk before gave.

        Returns:
            (4n, 3, 8 height, 8 width) in [-1, 1], and the past of the next chunk.
        """
        bounded = torch.tanh(latents.float() / LATENT_BOUND) * LATENT_BOUND
        x = self.conv_in(bounded.to(self.dtype)).relu()
        following: Past = []
        for index, stage in enumerate(self.stages):
            x, last = stage(x, past[index * BLOCKS : (index + 1) * BLOCKS])
            following += last
        pictures: Frames = self.conv_out(x.relu())[:, :3].clamp(0.0, 1.0) * 2.0 - 1.0
        return pictures, following

    def empty_past(self, latents: Frames) -> Past:
        """Return what was before a clip: black frames of the sizes that *latents* lead to."""
        height, width = latents.shape[2:]
        frames = [
            latents.new_zeros((1, channels, height << stage, width << stage), dtype=self.dtype)
            for stage, channels in enumerate(WIDTHS[:-1])
            for _ in range(BLOCKS)
        ]
        return [frame.contiguous(memory_format=torch.channels_last) for frame in frames]


class TaehvDecoder:
    """Decodes one clip after another with the model it was made from; not for two threads at once.

    Args:
        model: On its device in its final dtype.
        acceleration: Whether the walk is compiled.
        chunk: See `CHUNK`.
    """

    def __init__(self, model: Taehv, acceleration: Acceleration = PLAIN, *, chunk: int = CHUNK) -> None:
        self._model = model
        device = model.conv_in.weight.device
        # The decoder was trained on latents as the VAE's encoder gives them.
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1)
            for values in (model.config.latents_mean, model.config.latents_std)
        )
        compiled = acceleration.compile_decoder
        self._walk = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
        self._chunk = chunk

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield groups of frames: 4 for each latent frame of a chunk, less 3 for the clip's first.

        Args:
            latents: (1, 16, latent frames, height / 8, width / 8), normalised as the denoiser gives them.

        Yields:
            Frames: (n, 3, height, width) in [-1, 1], in the model's dtype.
        """
        frames = latents[0].permute(1, 0, 2, 3).float() * self._std + self._mean
        past, begin = self._model.empty_past(frames), FRAMES_DROPPED
        for chunk in torch.split(frames, self._chunk):
            missing = self._chunk - len(chunk)
            filled = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)])
            frames_of_chunk, past = self._walk(filled.contiguous(memory_format=torch.channels_last), past)
            yield frames_of_chunk[begin : len(chunk) * FRAMES_OF_A_LATENT]
            begin = 0


class _Conv(nn.Module):
    """A 3x3 convolution; what tensor cores want in multiples of 8 is filled up with nothing."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        lacking = -len(weight) % _TENSOR_CORE_CHANNELS
        padded = F.pad(weight, (0, 0) * 3 + (0, lacking))
        self.register_buffer("weight", padded.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", F.pad(bias, (0, lacking)))

    def forward(self, x: Frames) -> Frames:
        return F.conv2d(x, self.weight, self.bias, padding=1)


class _Stage(nn.Module):
    """Memory blocks, then growth."""

    def __init__(self, weights: Mapping[str, torch.Tensor], stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Memory(weights, name) for name in _blocks(stage))
        self.grow = _Growth(weights, stage)

    def forward(self, x: Frames, past: Past) -> tuple[Frames, Past]:
        following = []
        for block, before in zip(self.blocks, past, strict=True):
            following.append(x[-1:].clone())  # a part of it would keep the whole chunk
            x = block(x, before)
        return self.grow(x), following


class _Memory(nn.Module):
    """Three convolutions around which the frame goes by itself; the first sees the frame before as well."""

    def __init__(self, weights: Mapping[str, torch.Tensor], name: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _Conv(weights[f"{name}.conv.{index}.weight"], weights[f"{name}.conv.{index}.bias"])
            for index in (0, 2, 4)
        )

    def forward(self, x: Frames, before: Frames) -> Frames:
        seen = torch.cat([x, torch.cat([before, x[:-1]])], dim=1)
        first, second, third = self.convs
        out: Frames = (third(second(first(seen).relu()).relu()) + x).relu()
        return out


class _Growth(nn.Module):
    """Doubles height and width, makes frames of one, and convolves, all in one 2x2 convolution."""

    weight: torch.Tensor

    def __init__(self, weights: Mapping[str, torch.Tensor], stage: int) -> None:
        super().__init__()
        grow, conv = (weights[f"{name}.weight"].double() for name in _growth(stage))
        self.frames, self.channels = FRAMES_GROWN[stage], len(conv)
        each = [torch.einsum("omyx,mi->oiyx", conv, part) for part in grow[:, :, 0, 0].chunk(self.frames)]
        merged = phase_weights(torch.cat(each)).float()
        self.register_buffer("weight", merged.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Frames) -> Frames:
        _, _, height, width = x.shape
        mixed = F.conv2d(x, self.weight, padding=1)
        phases = mixed.view(len(x), 2, 2, self.frames, self.channels, height + 1, width + 1)
        rows = [
            torch.stack([_pixels(phases, row, column, height, width) for column in (0, 1)], dim=4)
            for row in (0, 1)
        ]
        out = torch.stack(rows, dim=3).reshape(-1, 2 * height, 2 * width, self.channels)
        return out.permute(0, 3, 1, 2)


def _pixels(phases: torch.Tensor, row: int, column: int, height: int, width: int) -> torch.Tensor:
    """Return one of the four kinds of pixel: (n, frames, height, width, channels)."""
    seen = phases[:, row, column, :, :, row : row + height, column : column + width]
    return seen.permute(0, 1, 3, 4, 2)
