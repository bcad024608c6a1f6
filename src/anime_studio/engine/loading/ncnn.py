"""An upscaler as ncnn stores it -> the tensors and the configuration of `engine.upscaling.Upscaler`.

A `.param` file is text: a magic number, two counts, then one layer a line: kind, name, the counts of inputs and outputs,
their names, and `key=value` parameters. A `.bin` file is the layers' numbers one after another, little endian, without
names: of a convolution four bytes that tell the format of its weights, the weights, padded to four bytes, and the
biases; of a PReLU its slopes. Biases and slopes are always float32. Not one byte may be left.

Source: ncnn's wiki, "param and model file structure" and "operation param weight table".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from anime_studio.core.errors import CheckpointError
from anime_studio.engine.upscaling import COLOURS, Upscaler, UpscalerConfig

_MAGIC: Final = "7767517"
_FLOAT16: Final = 0x01306B47
"""What stands before weights in float16."""
_KERNEL: Final = 3
_BEFORE, _BEHIND = ("Input", "Split"), ("PixelShuffle", "Interp", "BinaryOp")
"""The layers around the convolutions: the frame is used twice; it is repeated and added to the shuffled result."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a checkpoint's folder `upscaler` holds: the network's shape, and its tensors by our names."""

    config: UpscalerConfig
    tensors: Mapping[str, torch.Tensor]

    def upscaler(self) -> Upscaler:
        """Return the network with these tensors, in float32 on the CPU."""
        upscaler = Upscaler(self.config).eval().requires_grad_(False)
        upscaler.load_state_dict(dict(self.tensors))
        return upscaler


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    parameters: Mapping[int, float]

    def number(self, key: int) -> int:
        return int(self.parameters.get(key, 0))


def convert(network: bytes, weights: bytes) -> Converted:
    """Convert an SRVGGNetCompact.

    Args:
        network: The content of the `.param` file.
        weights: The content of the `.bin` file.

    Returns:
        Weights in float16, biases and slopes in float32: the numbers as they are stored.

    Raises:
        CheckpointError: It is another network, or the numbers are more or fewer than its layers have.
    """
    try:
        body, scale = _body(_layers(network.decode("ascii")))
        reader, inputs = _Reader(weights), COLOURS
        tensors: dict[str, torch.Tensor] = {}
        for index, layer in enumerate(body):
            outputs = layer.number(0)
            if layer.kind == "Convolution":
                tensors |= reader.convolution(f"body.{index}", layer, inputs)
                inputs = outputs
            else:
                tensors[f"body.{index}.weight"] = reader.float32(outputs)
        reader.require_end()
    except (ValueError, LookupError, struct.error) as error:
        raise CheckpointError(f"this is no SRVGGNetCompact that ncnn stores: {error}") from error
    config = UpscalerConfig(body[0].number(0), len(body) // 2 - 1, scale)
    return Converted(config, tensors)


def _layers(text: str) -> list[_Layer]:
    magic, counts, *lines = text.splitlines()
    if magic != _MAGIC or int(counts.split()[0]) != len(lines):
        raise ValueError("its first two lines do not tell what follows")
    return [_layer(line) for line in lines]


def _layer(line: str) -> _Layer:
    kind, _, inputs, outputs, *words = line.split()
    given = (word.split("=") for word in words[int(inputs) + int(outputs) :])
    return _Layer(kind, {int(key): float(value) for key, value in given})


def _body(layers: list[_Layer]) -> tuple[list[_Layer], int]:
    """Return the convolutions and PReLUs in order, and the scale, having checked what is around them."""
    body = layers[len(_BEFORE) : -len(_BEHIND)]
    alternating = ["Convolution", "PReLU"] * (len(body) // 2) + ["Convolution"]
    expected = [*_BEFORE, *alternating, *_BEHIND]
    if [layer.kind for layer in layers] != expected:
        raise ValueError("its layers are others")
    shuffle, interp, _ = layers[-len(_BEHIND) :]
    scale = shuffle.number(0)
    nearest = {0: 1, 1: scale, 2: scale}
    if dict(interp.parameters) != nearest or body[-1].number(0) != COLOURS * scale**2:
        raise ValueError("it does not add the frame repeated to the shuffled one")
    return body, scale


class _Reader:
    """Takes one array after another off the bytes."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def convolution(self, name: str, layer: _Layer, inputs: int) -> dict[str, torch.Tensor]:
        outputs, count = layer.number(0), layer.number(6)
        shape = (outputs, inputs, _KERNEL, _KERNEL)
        # 1: kernel, 4: padding, 5: whether there are biases.
        if (layer.number(1), layer.number(4), layer.number(5)) != (_KERNEL, 1, 1) or count != np.prod(shape):
            raise ValueError(f"{name} is another convolution than 3x3 of {inputs} to {outputs} channels")
        (stored_as,) = struct.unpack("<I", self._take(4))
        if stored_as != _FLOAT16:
            raise ValueError(f"the weights of {name} are not in float16")
        weight = np.frombuffer(self._take(2 * count), "<f2").reshape(shape)
        self._take(2 * count % 4)
        return {f"{name}.weight": torch.from_numpy(weight.copy()), f"{name}.bias": self.float32(outputs)}

    def float32(self, count: int) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(self._take(4 * count), "<f4").copy())

    def require_end(self) -> None:
        if left := len(self._content) - self._at:
            raise ValueError(f"{left} bytes are left over")

    def _take(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("bytes are missing at its end")
        self._at += count
        return taken
