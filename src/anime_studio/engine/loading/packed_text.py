"""The text encoder in fewer bytes: linear layers in int8, and the embedding table in host memory.

Memory traffic limits the text encoder, so its weights are int8 and dequantized at each use. Activations keep their
dtype: T5's have outliers that 8 bits cannot hold.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import nn

from anime_studio.engine.acceleration import TextWeights

INT8_MAX = 127.0
_SMALLEST_MAX = 1e-12
"""Least value that a row's largest number counts as, so that a row of zeros has a scale."""


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and a scale for each output row.

    Args:
        weight: (out, in).
        bias: (out,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        packed, scale = to_int8(weight.detach())
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())

    packed: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    weight = None
    """UMT5 casts activations to the dtype of `wo.weight` if that is a tensor. Here they must keep their dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (..., in) to (..., out)."""
        return F.linear(x, (self.packed.to(self.scale.dtype) * self.scale).to(x.dtype), self.bias)


def to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize *weight* (out, in) to int8, with scales (out, 1) in its dtype: weight ≈ int8 x scale.

    The result has the same bits on every device. torch divides by a number exactly on a CPU and multiplies by its
    reciprocal on a GPU, so this function multiplies by the reciprocal itself.
    """
    values = weight.float()
    scale = values.abs().amax(dim=1, keepdim=True).clamp_min(_SMALLEST_MAX) * (1 / INT8_MAX)
    return (values / scale).round().to(torch.int8), scale.to(weight.dtype)


def pack_text(text_encoder: nn.Module, text_weights: TextWeights, device: torch.device) -> None:
    """Pack the text encoder's linear layers on *device* as *text_weights* says, one after another.

    The device never holds more than one layer in full precision. On the meta device only shapes and dtypes change.
    """
    if text_weights is TextWeights.PLAIN:
        return
    for parent in list(text_encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                bias = None if child.bias is None else child.bias.to(device)
                setattr(parent, name, Int8Linear(child.weight.to(device), bias))


class HostEmbedding(nn.Module):
    """An embedding table in host memory. Only the rows of the tokens asked for are copied to the device.

    Args:
        table: The `nn.Embedding` to take over.
        device: Where the rows are wanted.
    """

    def __init__(self, table: Any, device: torch.device) -> None:
        super().__init__()
        # In a list, torch does not see the table: it must stay out of `.to(device)` and of state_dict.
        self._table: list[torch.Tensor] = [table.weight.detach().cpu()]
        self._device = device

    @property
    def weight(self) -> torch.Tensor:
        """The table, (vocabulary, width), in host memory."""
        return self._table[0]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the rows of *tokens*, on the device."""
        return F.embedding(tokens.cpu(), self.weight).to(self._device)
