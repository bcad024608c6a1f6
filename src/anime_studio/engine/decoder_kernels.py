"""Triton kernels of the VAE decoder: what stands between two convolutions, in one pass over memory.

Imported only where Triton and a GPU are (or its interpreter, for tests). Tensors are (frames, channels, height,
width) with channels last in memory, so a pixel's channels lie side by side and a program owns whole pixels.
"""
# ruff: noqa: ANN001, ANN202, N803 (Triton reads the annotations of a kernel and writes constants in capitals)

from __future__ import annotations

import torch
import triton
import triton.language as tl

_NORM_EPSILON = 1e-12  # of `F.normalize`, which diffusers' `WanRMS_norm` calls
_TILE = 4096
"""Numbers a program holds of one frame: 128 threads x 32."""
_ADD_BLOCK = 2048


def remember_and_norm(
    x: torch.Tensor, past: torch.Tensor, gain: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return *past* and the normed *x* behind it, and make the last two of those frames the new *past*.

    Args:
        x: (n, c, h, w), channels last.
        past: (2, c, h, w), channels last: the two frames before *x*, already normed; overwritten.
        gain: (c,), float32: norm each pixel to length one, multiply by this, apply SiLU. Without it *x* stays.
        bias: (c,): added to *x* first.

    Returns:
        (2 + n, c, h, w), channels last.
    """
    count, channels, height, width = x.shape
    seen = torch.empty_like(x[:1].expand(count + 2, -1, -1, -1), memory_format=torch.channels_last)
    pixels = height * width
    block_c = triton.next_power_of_2(channels)
    block_p = max(1, _TILE // block_c)
    _remember_and_norm[(triton.cdiv(pixels, block_p),)](
        x,
        past,
        x if gain is None else gain,
        x if bias is None else bias,
        seen,
        pixels,
        COUNT=count,
        CHANNELS=channels,
        BLOCK_C=block_c,
        BLOCK_P=block_p,
        HAS_GAIN=gain is not None,
        HAS_BIAS=bias is not None,
        EPSILON=_NORM_EPSILON,
        num_warps=4,
    )
    return seen


def add_with_bias(x: torch.Tensor, bias: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
    """Add *bias* (c,) and *carried* to *x* in place and return it; both (n, c, h, w), channels last."""
    numbers = x.numel()
    _add_with_bias[(triton.cdiv(numbers, _ADD_BLOCK),)](
        x, bias, carried, numbers, CHANNELS=x.shape[1], BLOCK=_ADD_BLOCK, num_warps=4
    )
    return x


@triton.jit  # type: ignore[untyped-decorator]
def _remember_and_norm(  # type: ignore[no-untyped-def]
    x,
    past,
    gain,
    bias,
    seen,
    pixels,
    COUNT: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EPSILON: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    there = (pixel < pixels)[:, None] & (channel < CHANNELS)[None, :]
    offset = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    frame = pixels.to(tl.int64) * CHANNELS
    if HAS_GAIN:
        gains = tl.load(gain + channel, mask=channel < CHANNELS, other=0.0)
    if HAS_BIAS:
        biases = tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    older = tl.load(past + offset, mask=there, other=0.0)
    newer = tl.load(past + frame + offset, mask=there, other=0.0)
    tl.store(seen + offset, older, mask=there)
    tl.store(seen + frame + offset, newer, mask=there)
    for index in range(COUNT):
        value = tl.load(x + index * frame + offset, mask=there, other=0.0)
        if HAS_BIAS or HAS_GAIN:
            wide = value.to(tl.float32)
            if HAS_BIAS:
                wide += biases[None, :]
            if HAS_GAIN:
                wide = tl.where(there, wide, 0.0)
                length = tl.sqrt(tl.sum(wide * wide, axis=1))
                wide *= (1.0 / tl.maximum(length, EPSILON))[:, None] * gains[None, :]
                wide *= 1.0 / (1.0 + tl.exp(-wide))
            value = wide.to(value.dtype)
        tl.store(seen + (index + 2) * frame + offset, value, mask=there)
        older = newer
        newer = value
    tl.store(past + offset, older, mask=there)
    tl.store(past + frame + offset, newer, mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _add_with_bias(  # type: ignore[no-untyped-def]
    x,
    bias,
    carried,
    numbers,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = offset < numbers
    total = tl.load(x + offset, mask=there, other=0.0).to(tl.float32)
    total += tl.load(bias + offset % CHANNELS, mask=there, other=0.0).to(tl.float32)
    total += tl.load(carried + offset, mask=there, other=0.0).to(tl.float32)
    tl.store(x + offset, total.to(x.dtype.element_ty), mask=there)
