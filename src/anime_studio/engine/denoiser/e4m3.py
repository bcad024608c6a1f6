"""Numbers in e4m3 (8-bit floating point: 4 bits of exponent, 3 of mantissa), with a scale for each row."""

from __future__ import annotations

import torch

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
"""Largest finite e4m3 number (OCP 8-bit floating point specification, E4M3)."""
SMALLEST_MAX = 1e-12
"""Least value that a row's largest number counts as, so that a row of zeros has a scale."""


def to_e4m3(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize *values* with one scale for each row of the last dimension.

    Returns:
        e4m3 of the same shape, and float32 scales (..., 1): values ≈ e4m3 x scale.
    """
    values = values.float()
    scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(SMALLEST_MAX) / E4M3_MAX
    return (values / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale
