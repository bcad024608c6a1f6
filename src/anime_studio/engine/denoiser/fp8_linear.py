"""The denoiser's linear layers in e4m3: activations have a scale per token, weights a scale per output row.

Arithmetic limits the denoiser, and tensor cores multiply e4m3 by e4m3 twice as fast as bfloat16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import nn

from anime_studio.engine.denoiser.e4m3 import E4M3, to_e4m3


def gelu_to_e4m3(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return GELU (tanh approximation) of *rows* (n, width), quantized as by `to_e4m3`; on a GPU in one kernel."""
    if rows.is_cuda:
        quantized, scale = _gelu_kernel(rows)
        return quantized, scale
    return to_e4m3(F.gelu(rows, approximate="tanh"))


@torch.library.custom_op("anime_studio::gelu_to_e4m3", mutates_args=())
def _gelu_kernel(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from anime_studio.engine.denoiser.kernels import gelu_rows_to_e4m3

    return gelu_rows_to_e4m3(rows.contiguous())


@_gelu_kernel.register_fake
def _(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rows.new_empty(rows.shape, dtype=E4M3), rows.new_empty((rows.shape[0], 1), dtype=torch.float32)


class Fp8Linear(nn.Module):
    """A linear layer that multiplies in e4m3 with float32 sums; input and output are bfloat16.

    Args:
        weight: (out, in); `fits` must hold.
        bias: (out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        quantized, scale = to_e4m3(weight.detach())
        self.register_buffer("weight", quantized)
        self.register_buffer("weight_scale", scale.reshape(1, -1))
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.bfloat16))

    weight: torch.Tensor
    weight_scale: torch.Tensor
    bias: torch.Tensor | None

    @staticmethod
    def fits(weight: torch.Tensor) -> bool:
        """Whether tensor cores can take *weight* in e4m3: it is bfloat16, and both sides are multiples of 16."""
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
