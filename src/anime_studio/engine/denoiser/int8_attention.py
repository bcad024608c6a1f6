"""Self-attention with int8 queries and keys: from the joined projection to the attended values.

Queries have a scale for each token, keys one for each block. The mean key is subtracted from every key first. That
shifts all logits of a query by the same number, which softmax ignores, and int8 need not hold a common offset
(SageAttention, arXiv 2410.02367, section 4.2). Any number would do, so the mean is that of a sample of the tokens.

Values are bfloat16; on cards whose tensor cores bound attention they are e4m3, less their mean, which is added back.
docs/performance.md has what was measured, docs/adr/0016 why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from anime_studio.engine.denoiser.e4m3 import E4M3
from anime_studio.engine.denoiser.sparse_attention import coarse_branch

_LOG2_E = 1.4426950408889634
_SAMPLE_TOKENS = 2048
_SAMPLE_ROWS = 16
_QUANTIZE_WARPS = 8


@dataclass(frozen=True, slots=True)
class Launch:
    """How the kernels are launched on a kind of card.

    Attributes:
        queries: Tokens in a tile of queries.
        keys: Tokens in a block of keys; *queries* is a multiple of it.
        num_warps: Of a program that attends.
        num_stages: Blocks of keys and values in shared memory at once.
        e4m3_values: Whether values are e4m3 instead of bfloat16.
        copy_engine: Whether keys and values are loaded by Hopper's tensor memory accelerator.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int
    e4m3_values: bool = False
    copy_engine: bool = False


def launch_for(capability: tuple[int, int]) -> Launch | None:
    """Return the launch for a CUDA compute capability, (major, minor), or None where 16 bits are faster.

    Hopper's was measured. The others follow from the compiled kernels' registers and shared memory and from data
    sheets: Ada and sm_120 multiply e4m3 twice as fast as bfloat16, Ampere has no e4m3. Triton 3.6 to 3.8 give sm_100 no
    int8 instruction of its own.
    """
    if capability < (8, 0) or (10, 0) <= capability < (12, 0):
        return None
    if capability == (9, 0):
        return Launch(queries=128, keys=64, num_warps=4, num_stages=3, copy_engine=True)
    if capability >= (8, 9):
        return Launch(queries=128, keys=64, num_warps=8, num_stages=3, e4m3_values=True)
    return Launch(queries=128, keys=64, num_warps=8, num_stages=2)


class KeyBlocks(NamedTuple):
    """Which blocks of keys each tile of queries attends to.

    Attributes:
        blocks: int32 (heads, tiles, blocks of a tile).
        absent: int32 (heads, tiles): how many padding keys they hold.
    """

    blocks: torch.Tensor
    absent: torch.Tensor


class Ragged(NamedTuple):
    """Tiles in place of a launch's blocks: tokens that follow one another, at most as many as a block has room for.

    Attributes:
        starts: int32 (tiles,): the first token of each.
        sizes: int32 (tiles,): how many it has.
    """

    starts: torch.Tensor
    sizes: torch.Tensor


def int8_attention_works(device: torch.device) -> bool:
    """Whether *device* has a launch, and Triton compiles and runs it there."""
    if device.type != "cuda" or launch_for(torch.cuda.get_device_capability(device)) is None:
        return False
    qkv = torch.randn(1, 128, 3 * 128, device=device).bfloat16()
    gain, angle = torch.ones(128, device=device), torch.ones(1, 128, 1, 64, device=device)
    try:
        int8_attention(qkv, gain, gain, angle, angle, 1, 1e-6)
        torch.cuda.synchronize(device)
    except Exception:  # noqa: BLE001 (Triton and the driver have no common base of their errors; SDPA is slower)
        return False
    return True


@torch.library.custom_op("anime_studio::int8_attention", mutates_args=())
def int8_attention(
    qkv: torch.Tensor,
    gain_q: torch.Tensor,
    gain_k: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    heads: int,
    epsilon: float,
) -> torch.Tensor:
    """Return the attended values, (1, tokens, heads x width), in the dtype of *qkv*.

    Args:
        qkv: (1, tokens, 3 x heads x width), bfloat16: queries, keys and values, not yet normed. The width of a head is
            a power of two, at least 32.
        gain_q: (heads x width,), of the queries' root-mean-square norm over all heads.
        gain_k: Of the keys'.
        cosines: Of the rotary embedding, (1, tokens, 1, width / 2), float32.
        sines: See *cosines*.
        heads: How many.
        epsilon: Of both norms.
    """
    launch = launch_for(torch.cuda.get_device_capability(qkv.device))
    if launch is None:
        raise NotImplementedError("no launch for this GPU; see int8_attention_works")
    return attend_int8(qkv, gain_q, gain_k, (cosines, sines), heads, epsilon, launch)


@int8_attention.register_fake
def _(qkv: torch.Tensor, *_: object) -> torch.Tensor:
    return qkv.new_empty((*qkv.shape[:2], qkv.shape[2] // 3))


@torch.library.custom_op("anime_studio::int8_sparse_attention", mutates_args=())
def int8_sparse_attention(
    qkv: torch.Tensor,
    gain_q: torch.Tensor,
    gain_k: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    heads: int,
    epsilon: float,
    starts: torch.Tensor,
    sizes: torch.Tensor,
    volume: int,
    kept: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both branches of sparse attention: fine (1, tokens, heads x width) and coarse (tiles, heads x width).

    Args:
        qkv: See `int8_attention`; tokens in the order of tiles.
        gain_q: See `int8_attention`.
        gain_k: See `int8_attention`.
        cosines: See `int8_attention`; in the order of tiles as well.
        sines: See *cosines*.
        heads: How many.
        epsilon: Of both norms.
        starts: See `Tiles`.
        sizes: See `Tiles`.
        volume: See `Tiles`; 64.
        kept: See `Tiles`.
    """
    launch = launch_for(torch.cuda.get_device_capability(qkv.device))
    if launch is None:
        raise NotImplementedError("no launch for this GPU; see int8_attention_works")
    rotary, ragged = (cosines, sines), Ragged(starts, sizes)
    return attend_int8_sparsely(
        qkv, gain_q, gain_k, rotary, heads, epsilon, launch_for_tiles(launch, volume), ragged, kept
    )


@int8_sparse_attention.register_fake
def _(qkv: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    dim, tiles = qkv.shape[2] // 3, others[6].shape[0]  # its starts
    return qkv.new_empty((*qkv.shape[:2], dim)), qkv.new_empty((tiles, dim))


def launch_for_tiles(launch: Launch, volume: int) -> Launch:
    """Return *launch* for tiles of *volume* tokens: each has its own list of keys, so one is all that a program takes."""
    return replace(launch, queries=volume, keys=volume, num_warps=4)


def attend_int8_sparsely(
    qkv: torch.Tensor,
    gain_q: torch.Tensor,
    gain_k: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    heads: int,
    epsilon: float,
    launch: Launch,
    ragged: Ragged,
    kept: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `int8_sparse_attention` does, by *launch*."""
    from anime_studio.engine.denoiser.int8_kernels import pool_values

    qkv, rotary = qkv.contiguous(), (rotary[0].contiguous(), rotary[1].contiguous())
    tiles, width = len(ragged.sizes), qkv.shape[2] // (3 * heads)
    mean = _mean_key(qkv, gain_k, rotary, heads, epsilon)
    quantized = _quantize(qkv, (gain_q, gain_k), rotary, mean, heads, epsilon, launch, ragged)
    copied = qkv if launch.e4m3_values else qkv.new_empty((tiles * launch.keys, heads * width))
    pooled = mean.new_empty((heads, tiles, width))
    pool_values[(tiles, heads)](
        qkv, *ragged, copied, pooled,
        HEADS=heads, WIDTH=width, ROWS=launch.keys, COPY=not launch.e4m3_values,
    )  # fmt: skip
    scores, coarse = coarse_branch(quantized.pooled[0], quantized.pooled[1], pooled)
    chosen = scores.topk(kept, sorted=False).indices.int()
    absent = (launch.keys - ragged.sizes)[chosen].sum(-1, dtype=torch.int32)
    attend = _attend_e4m3 if launch.e4m3_values else _attend
    fine = attend(qkv, quantized, heads, launch, KeyBlocks(chosen, absent), ragged, copied)
    return fine, coarse.transpose(0, 1).flatten(1).to(qkv.dtype)


def attend_int8(
    qkv: torch.Tensor,
    gain_q: torch.Tensor,
    gain_k: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    heads: int,
    epsilon: float,
    launch: Launch,
    key_blocks: KeyBlocks | None = None,
) -> torch.Tensor:
    """Return what `int8_attention` does, by *launch*: over all keys, or over each tile's own *key_blocks*."""
    qkv, rotary = qkv.contiguous(), (rotary[0].contiguous(), rotary[1].contiguous())
    mean = _mean_key(qkv, gain_k, rotary, heads, epsilon)
    quantized = _quantize(qkv, (gain_q, gain_k), rotary, mean, heads, epsilon, launch)
    attend = _attend_e4m3 if launch.e4m3_values else _attend
    return attend(qkv, quantized, heads, launch, key_blocks)


class _Quantized(NamedTuple):
    """Queries and keys, padded to whole tiles: see `int8_kernels.quantize`."""

    levels: torch.Tensor
    scales: torch.Tensor
    norms: torch.Tensor
    pooled: torch.Tensor


def _mean_key(
    qkv: torch.Tensor, gain: torch.Tensor, rotary: tuple[torch.Tensor, ...], heads: int, epsilon: float
) -> torch.Tensor:
    from anime_studio.engine.denoiser.int8_kernels import sum_keys

    tokens, width = qkv.shape[1], qkv.shape[2] // (3 * heads)
    stride = max(1, tokens // _SAMPLE_TOKENS) | 1  # odd: a frame's rows and columns are even
    samples = -(-tokens // stride)
    programs = -(-samples // _SAMPLE_ROWS)
    sums = qkv.new_empty((programs, heads * width), dtype=torch.float32)
    sum_keys[(programs,)](
        qkv, gain, *rotary, sums, tokens, stride,
        HEADS=heads, WIDTH=width, ROWS=_SAMPLE_ROWS, EPSILON=epsilon,
    )  # fmt: skip
    return sums.sum(0) / samples


def _quantize(
    qkv: torch.Tensor,
    gains: tuple[torch.Tensor, ...],
    rotary: tuple[torch.Tensor, ...],
    mean: torch.Tensor,
    heads: int,
    epsilon: float,
    launch: Launch,
    ragged: Ragged | None = None,
) -> _Quantized:
    from anime_studio.engine.denoiser.int8_kernels import quantize

    tokens, width = qkv.shape[1], qkv.shape[2] // (3 * heads)
    padded = (
        -(-tokens // launch.queries) * launch.queries if ragged is None else len(ragged.sizes) * launch.keys
    )
    levels = qkv.new_empty((2, heads, padded, width), dtype=torch.int8)
    scales = qkv.new_empty((2, heads, padded), dtype=torch.float32)
    norms = torch.empty_like(scales)
    pooled = mean if ragged is None else mean.new_empty((2, heads, len(ragged.sizes), width))
    quantize[(padded // launch.keys, 2)](
        qkv, *gains, *rotary, mean, levels, scales, norms, *(ragged or (mean, mean)), pooled, tokens, padded,
        HEADS=heads, WIDTH=width, ROWS=launch.keys, EPSILON=epsilon, RAGGED=ragged is not None,
        num_warps=_QUANTIZE_WARPS,
    )  # fmt: skip
    return _Quantized(levels, scales, norms, pooled)


def _attend(
    qkv: torch.Tensor,
    quantized: _Quantized,
    heads: int,
    launch: Launch,
    key_blocks: KeyBlocks | None,
    ragged: Ragged | None = None,
    copied: torch.Tensor | None = None,
) -> torch.Tensor:
    from anime_studio.engine.denoiser.int8_kernels import attend

    levels, scales, norms, _ = quantized
    padded, width = levels.shape[2:]
    out = qkv.new_empty((1, qkv.shape[1], heads * width))
    keys = _source(levels[1].view(-1, width), launch.keys, width, launch)
    values = qkv[0, :, 2 * heads * width :] if copied is None else copied
    values = _source(values, launch.keys, width, launch)
    attend[(padded // launch.queries, heads)](
        levels, keys, values, scales, norms, out, *(key_blocks or (scales, scales)), *(ragged or (scales, scales)),
        qkv.shape[1], padded, _LOG2_E / math.sqrt(width),
        **_constants(levels, launch, key_blocks), RAGGED=ragged is not None,
        ALL=_power_of_two(padded // launch.keys),
    )  # fmt: skip
    return out


def _attend_e4m3(
    qkv: torch.Tensor,
    quantized: _Quantized,
    heads: int,
    launch: Launch,
    key_blocks: KeyBlocks | None,
    ragged: Ragged | None = None,
    _copied: torch.Tensor | None = None,
) -> torch.Tensor:
    from anime_studio.engine.denoiser.int8_kernels import attend_e4m3, quantize_values

    levels, scales, *_ = quantized
    padded, width = levels.shape[2:]
    mean = qkv[0, :, 2 * heads * width :].mean(0, dtype=torch.float32)
    narrow = qkv.new_empty((heads * width, padded), dtype=E4M3)
    exponents = qkv.new_empty((heads, padded // launch.keys), dtype=torch.float32)
    quantize_values[(padded // launch.keys, heads)](
        qkv, mean, narrow, exponents, *(ragged or (mean, mean)), qkv.shape[1], padded,
        HEADS=heads, WIDTH=width, ROWS=launch.keys, RAGGED=ragged is not None,
    )  # fmt: skip
    out = qkv.new_empty((1, qkv.shape[1], heads * width))
    keys = _source(levels[1].view(-1, width), launch.keys, width, launch)
    values = _source(narrow, width, launch.keys, launch)
    attend_e4m3[(padded // launch.queries, heads)](
        levels, keys, values, scales, exponents, mean, out, *(key_blocks or (scales, scales)),
        *(ragged or (scales, scales)), qkv.shape[1], padded, _LOG2_E / math.sqrt(width),
        **_constants(levels, launch, key_blocks), RAGGED=ragged is not None,
    )  # fmt: skip
    return out


def _constants(levels: torch.Tensor, launch: Launch, key_blocks: KeyBlocks | None) -> dict[str, Any]:
    _, heads, padded, width = levels.shape
    return {
        "HEADS": heads,
        "WIDTH": width,
        "QUERIES": launch.queries,
        "KEYS": launch.keys,
        "COUNT": padded // launch.keys if key_blocks is None else key_blocks.blocks.shape[-1],
        "LISTED": key_blocks is not None,
        "DESCRIBED": launch.copy_engine,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }


def _source(tensor: torch.Tensor, rows: int, columns: int, launch: Launch) -> Any:
    if not launch.copy_engine:
        return tensor
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(tensor, [rows, columns])


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
