"""Triton kernels of the VAE decoder: everything between two convolutions in one pass over memory.

Import it only where Triton and a GPU are (or Triton's interpreter, for tests). Tensors are (frames, channels, height,
width) with channels last in memory: a pixel's channels are adjacent, and a program works on whole pixels. The result of a
convolution may be a view of a tensor with more channels (`fused`): then the distance between pixels (`pitch`) is larger.
"""
# ruff: noqa: ANN001, ANN202, N803 (Triton reads the annotations of a kernel and writes constants in capitals)

from __future__ import annotations

import torch
import triton
import triton.language as tl

_NORM_EPSILON = 1e-12  # of `F.normalize`, which diffusers' `WanRMS_norm` calls
_TILE = 4096
"""Numbers of one frame in a program: 128 threads x 32."""
_ADD_BLOCK = 2048


def norm_with_cache(
    x: torch.Tensor, cache: torch.Tensor, gain: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the frames of *cache* followed by the normed *x*, and store the last two of those frames in *cache*.

    Args:
        x: (n, c, h, w), channels last, or a view of the first of more channels.
        cache: (2, c, h, w), channels last: the two normed frames before *x*; overwritten.
        gain: (c,), float32: norm each pixel to length one, multiply by *gain*, apply SiLU. None leaves *x* as it is.
        bias: (c,): added to *x* first.

    Returns:
        (2 + n, c, h, w), channels last.
    """
    count, channels, height, width = x.shape
    frames = torch.empty_like(x[:1].expand(count + 2, -1, -1, -1), memory_format=torch.channels_last)
    pixels = height * width
    block_c = triton.next_power_of_2(channels)
    block_p = max(1, _TILE // block_c)
    _norm_with_cache[(triton.cdiv(pixels, block_p), count)](
        x,
        cache,
        x if gain is None else gain,
        x if bias is None else bias,
        frames,
        pixels,
        x.stride(3),
        COUNT=count,
        CHANNELS=channels,
        BLOCK_C=block_c,
        BLOCK_P=block_p,
        HAS_GAIN=gain is not None,
        HAS_BIAS=bias is not None,
        EPSILON=_NORM_EPSILON,
        num_warps=4,
    )
    return frames


def add_with_bias(x: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Add *x* and *bias* to *residual* in place and return it.

    Args:
        x: (n, c, h, w), channels last, or a view of the first of more channels.
        bias: (c,).
        residual: (n, c, h, w), channels last; overwritten.
    """
    numbers = residual.numel()
    _add_with_bias[(triton.cdiv(numbers, _ADD_BLOCK),)](
        x, bias, residual, numbers, x.stride(3), CHANNELS=residual.shape[1], BLOCK=_ADD_BLOCK, num_warps=4
    )
    return residual


def interleave_phases(phases: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the image of twice the size, whose four kinds of pixel (phases) are adjacent in the channels of *phases*.

    Args:
        phases: (n, 4c, height + 1, width + 1), channels last: even rows and even columns, even and odd, odd and even,
            odd and odd. Position (i, j) holds row 2i of an even phase or 2i - 1 of an odd one; columns likewise.
        bias: (c,), added.

    Returns:
        (n, c, 2 height, 2 width), channels last.
    """
    count, phase_channels, rows, columns = phases.shape
    channels, height, width = phase_channels // 4, 2 * (rows - 1), 2 * (columns - 1)
    out = phases.new_empty((count, height, width, channels)).permute(0, 3, 1, 2)
    block_c = triton.next_power_of_2(channels)
    block_p = max(1, _TILE // block_c)
    _interleave_phases[(triton.cdiv(height * width, block_p), count)](
        phases, bias, out, height, width, CHANNELS=channels, BLOCK_C=block_c, BLOCK_P=block_p, num_warps=4
    )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _norm_with_cache(  # type: ignore[no-untyped-def]
    x,
    cache,
    gain,
    bias,
    frames,
    pixels,
    pitch,
    COUNT: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EPSILON: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    index = tl.program_id(1)
    channel = tl.arange(0, BLOCK_C)
    mask = (pixel < pixels)[:, None] & (channel < CHANNELS)[None, :]
    offset = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    frame = pixels.to(tl.int64) * CHANNELS
    source = (index * pixels + pixel).to(tl.int64)[:, None] * pitch + channel[None, :]
    value = tl.load(x + source, mask=mask, other=0.0)
    if HAS_BIAS or HAS_GAIN:
        exact = value.to(tl.float32)
        if HAS_BIAS:
            exact += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
        if HAS_GAIN:
            gains = tl.load(gain + channel, mask=channel < CHANNELS, other=0.0)
            exact = tl.where(mask, exact, 0.0)
            length = tl.sqrt(tl.sum(exact * exact, axis=1))
            exact *= (1.0 / tl.maximum(length, EPSILON))[:, None] * gains[None, :]
            exact *= 1.0 / (1.0 + tl.exp(-exact))
        value = exact.to(value.dtype)
    tl.store(frames + (index + 2) * frame + offset, value, mask=mask)
    # The same program reads a cached frame's pixels and replaces them, so that no program waits for another.
    if COUNT == 1:
        newer = tl.load(cache + frame + offset, mask=mask, other=0.0)
        tl.store(frames + offset, tl.load(cache + offset, mask=mask, other=0.0), mask=mask)
        tl.store(frames + frame + offset, newer, mask=mask)
        tl.store(cache + offset, newer, mask=mask)
        tl.store(cache + frame + offset, value, mask=mask)
    else:
        cached = index - (COUNT - 2)
        if cached >= 0:
            offset += cached * frame
            tl.store(frames + offset, tl.load(cache + offset, mask=mask, other=0.0), mask=mask)
            tl.store(cache + offset, value, mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _interleave_phases(  # type: ignore[no-untyped-def]
    phases, bias, out, height, width, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr
):
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    frame = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK_C)
    mask = (pixel < height * width)[:, None] & (channel < CHANNELS)[None, :]
    row, column = pixel // width, pixel % width
    # Rows 2i and 2i - 1 are at position i of their phases, and columns likewise: half of the row, rounded up.
    position = ((row + 1) // 2) * (width // 2 + 1) + (column + 1) // 2
    phase = (row % 2) * 2 + column % 2
    source = (position.to(tl.int64) * 4 + phase)[:, None] * CHANNELS + channel[None, :]
    positions = (height // 2 + 1) * (width // 2 + 1)
    value = tl.load(phases + frame * positions * 4 * CHANNELS + source, mask=mask, other=0.0)
    biases = tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    total = value.to(tl.float32) + biases[None, :]
    target = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(out + frame * height * width * CHANNELS + target, total.to(value.dtype), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _add_with_bias(  # type: ignore[no-untyped-def]
    x, bias, residual, numbers, pitch, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < numbers
    channel = offset % CHANNELS
    total = tl.load(residual + offset, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(x + offset // CHANNELS * pitch + channel, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
    tl.store(residual + offset, total.to(residual.dtype.element_ty), mask=mask)
