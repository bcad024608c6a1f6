"""Linears kept in fewer bytes: e4m3 that multiplies as e4m3, and int8 that is widened first.

`Fp8Linear` is for the denoiser, where arithmetic is the limit: activations get a scale per token, weights one
per output row, and the tensor cores multiply e4m3. `Int8Linear` is for the text encoder, where bytes are the
limit: activations stay as they are, since T5's have outliers that 8 bits do not hold.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import nn

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
"""Largest finite e4m3 number (OCP 8-bit floating point specification, E4M3)."""
INT8_MAX = 127.0
TINY = 1e-12
"""The smallest largest number of a row, so that a row of zeros has a scale."""


def to_e4m3(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise *values* with one scale per row of the last dimension.

    Returns:
        e4m3 of the same shape, and float32 scales (..., 1): values ≈ e4m3 x scale.
    """
    wide = values.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min(TINY) / E4M3_MAX
    return (wide / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


def gelu_to_e4m3(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return GELU (tanh approximation) of *rows* (n, width) quantised as by `to_e4m3`; on a GPU in one kernel."""
    if rows.is_cuda:
        narrow, scale = _gelu_kernel(rows)
        return narrow, scale
    return to_e4m3(F.gelu(rows, approximate="tanh"))


@torch.library.custom_op("anime_studio::gelu_to_e4m3", mutates_args=())
def _gelu_kernel(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from anime_studio.engine.denoiser_kernels import gelu_rows_to_e4m3

    return gelu_rows_to_e4m3(rows.contiguous())


@_gelu_kernel.register_fake
def _(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.new_empty(rows.shape, dtype=E4M3), rows.new_empty((rows.shape[0], 1), dtype=torch.float32)


class Fp8Linear(nn.Module):
    """A linear layer that multiplies in e4m3 with float32 sums; input and output are bfloat16.

    Args:
        weight: (out, in), which `fits`.
        bias: (out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        narrow, scale = to_e4m3(weight.detach())
        self.register_buffer("weight", narrow)
        self.register_buffer("weight_scale", scale.reshape(1, -1))
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.bfloat16))

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None

    @staticmethod
    def fits(weight: torch.Tensor) -> bool:
        """Whether the tensor cores take *weight* in e4m3: bfloat16 now, and both sides multiples of 16."""
        return weight.dtype is torch.bfloat16 and not (weight.shape[0] % 16 or weight.shape[1] % 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (..., in) to (..., out)."""
        return self._multiply(*to_e4m3(x.reshape(-1, x.shape[-1]))).reshape(*x.shape[:-1], -1)

    def after_gelu(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply GELU of (..., in) to (..., out)."""
        return self._multiply(*gelu_to_e4m3(x.reshape(-1, x.shape[-1]))).reshape(*x.shape[:-1], -1)

    def _multiply(self, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.weight_scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=rows.is_cuda,
        )


class Int8Linear(nn.Module):
    """A linear layer whose weights lie in int8, with a scale per output row, and are widened for each use.

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
    """UMT5 casts its activations to the dtype of `wo.weight` if that is a tensor; here there is nothing to cast to."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply (..., in) to (..., out)."""
        return F.linear(x, (self.packed.to(self.scale.dtype) * self.scale).to(x.dtype), self.bias)


def to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return *weight* (out, in) in int8, and scales (out, 1) in its dtype: weight ≈ int8 x scale.

    The same bits on every device: torch divides by a number exactly on a CPU, and by its reciprocal on a GPU, so the
    reciprocal is taken here.
    """
    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(TINY) * (1 / INT8_MAX)
    return (wide / scale).round().to(torch.int8), scale.to(weight.dtype)


def pack_linears(model: nn.Module, device: torch.device) -> None:
    """Replace every `nn.Linear` within *model* by an `Int8Linear` on *device*, one after another.

    The device never holds more than one layer unpacked.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                bias = None if child.bias is None else child.bias.to(device)
                setattr(parent, name, Int8Linear(child.weight.to(device), bias))


class HostEmbedding(nn.Module):
    """An embedding table in main memory whose rows go to the device as they are asked for.

    Args:
        table: The `nn.Embedding` to take over.
        device: Where the rows are wanted.
    """

    def __init__(self, table: Any, device: torch.device) -> None:
        super().__init__()
        # Kept from `.to(device)` and from state_dict: it is not the module's to move.
        self._table: list[torch.Tensor] = [table.weight.detach().cpu()]
        self._device = device

    @property
    def weight(self) -> torch.Tensor:
        """The table, (vocabulary, width), in main memory."""
        return self._table[0]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the rows of *tokens*, on the device."""
        return F.embedding(tokens.cpu(), self.weight).to(self._device)
