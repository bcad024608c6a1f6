"""Triton kernels of the VAE decoder: what stands between two convolutions, in one pass over memory.

Imported only where Triton and a GPU are (or its interpreter, for tests). Tensors are (frames, channels, height,
width) with channels last in memory, so a pixel's channels lie side by side and a program owns whole pixels. What a
convolution drew may be a part of more channels than are wanted (`fused_decoding`): its pixels then lie further apart.
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
        x: (n, c, h, w), channels last, or the first of more channels.
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
    _remember_and_norm[(triton.cdiv(pixels, block_p), count)](
        x,
        past,
        x if gain is None else gain,
        x if bias is None else bias,
        seen,
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
    return seen


def add_with_bias(x: torch.Tensor, bias: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
    """Add *x* and *bias* to *carried* in place and return it.

    Args:
        x: (n, c, h, w), channels last, or the first of more channels.
        bias: (c,).
        carried: (n, c, h, w), channels last; overwritten.
    """
    numbers = carried.numel()
    _add_with_bias[(triton.cdiv(numbers, _ADD_BLOCK),)](
        x,
        bias,
        carried,
        numbers,
        x.stride(3),
        CHANNELS=carried.shape[1],
        BLOCK=_ADD_BLOCK,
        num_warps=4,
    )
    return carried


def interleave_phases(mixed: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return the image of twice the size whose four kinds of pixel lie beside each other in *mixed*'s channels.

    Args:
        mixed: (n, 4c, height + 1, width + 1), channels last: for even rows and even columns, even and odd, odd and
            even, odd and odd. Place (i, j) holds pixel (2i, 2j) of the even ones and (2i - 1, 2j - 1) of the odd.
        bias: (c,), added.

    Returns:
        (n, c, 2 height, 2 width), channels last.
    """
    count, phases, rows, columns = mixed.shape
    channels, height, width = phases // 4, 2 * (rows - 1), 2 * (columns - 1)
    out = mixed.new_empty((count, height, width, channels)).permute(0, 3, 1, 2)
    block_c = triton.next_power_of_2(channels)
    block_p = max(1, _TILE // block_c)
    _interleave_phases[(triton.cdiv(height * width, block_p), count)](
        mixed,
        bias,
        out,
        height,
        width,
        CHANNELS=channels,
        BLOCK_C=block_c,
        BLOCK_P=block_p,
        num_warps=4,
    )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _remember_and_norm(  # type: ignore[no-untyped-def]
    x,
    past,
    gain,
    bias,
    seen,
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
    there = (pixel < pixels)[:, None] & (channel < CHANNELS)[None, :]
    offset = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    frame = pixels.to(tl.int64) * CHANNELS
    drawn = (index * pixels + pixel).to(tl.int64)[:, None] * pitch + channel[None, :]
    value = tl.load(x + drawn, mask=there, other=0.0)
    if HAS_BIAS or HAS_GAIN:
        wide = value.to(tl.float32)
        if HAS_BIAS:
            wide += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
        if HAS_GAIN:
            gains = tl.load(gain + channel, mask=channel < CHANNELS, other=0.0)
            wide = tl.where(there, wide, 0.0)
            length = tl.sqrt(tl.sum(wide * wide, axis=1))
            wide *= (1.0 / tl.maximum(length, EPSILON))[:, None] * gains[None, :]
            wide *= 1.0 / (1.0 + tl.exp(-wide))
        value = wide.to(value.dtype)
    tl.store(seen + (index + 2) * frame + offset, value, mask=there)
    # Each remembered frame is read and replaced by one program, so that frames need not wait for each other.
    if COUNT == 1:
        newer = tl.load(past + frame + offset, mask=there, other=0.0)
        tl.store(seen + offset, tl.load(past + offset, mask=there, other=0.0), mask=there)
        tl.store(seen + frame + offset, newer, mask=there)
        tl.store(past + offset, newer, mask=there)
        tl.store(past + frame + offset, value, mask=there)
    else:
        place = index - (COUNT - 2)
        if place >= 0:
            offset += place * frame
            tl.store(seen + offset, tl.load(past + offset, mask=there, other=0.0), mask=there)
            tl.store(past + offset, value, mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _interleave_phases(  # type: ignore[no-untyped-def]
    mixed,
    bias,
    out,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    frame = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK_C)
    there = (pixel < height * width)[:, None] & (channel < CHANNELS)[None, :]
    row, column = pixel // width, pixel % width
    # Half of a row rounded up, whichever its kind: rows 2i and 2i - 1 lie at place i.
    place = ((row + 1) // 2) * (width // 2 + 1) + (column + 1) // 2
    phase = (row % 2) * 2 + column % 2
    source = (place.to(tl.int64) * 4 + phase)[:, None] * CHANNELS + channel[None, :]
    places = (height // 2 + 1) * (width // 2 + 1)
    value = tl.load(mixed + frame * places * 4 * CHANNELS + source, mask=there, other=0.0)
    biases = tl.load(bias + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    total = value.to(tl.float32) + biases[None, :]
    target = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    tl.store(out + frame * height * width * CHANNELS + target, total.to(value.dtype), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _add_with_bias(  # type: ignore[no-untyped-def]
    x,
    bias,
    carried,
    numbers,
    pitch,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = offset < numbers
    channel = offset % CHANNELS
    total = tl.load(carried + offset, mask=there, other=0.0).to(tl.float32)
    total += tl.load(x + offset // CHANNELS * pitch + channel, mask=there, other=0.0).to(tl.float32)
    total += tl.load(bias + channel, mask=there, other=0.0).to(tl.float32)
    tl.store(carried + offset, total.to(carried.dtype.element_ty), mask=there)
