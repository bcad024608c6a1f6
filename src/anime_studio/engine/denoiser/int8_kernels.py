"""Triton kernels of the denoiser's self-attention: queries times keys in int8, weights times values in bf16 or e4m3.

`quantize` takes the joined projection to int8 in one pass over memory: norm, rotary embedding, keys less their mean.

`attend` needs no running maximum. Keys less their mean have logits around zero, and float32 and bf16 hold 2^-126 to
2^127: each weight is 2^logit as it is. A row whose weights could pass 2^100 is shifted down by as much as the
Cauchy-Schwarz inequality asks for; if that is more than 100, by its maximum, which is then looked for first. So no sum
is ever rescaled and no number passed between threads.

`attend_e4m3` is for cards that are short of tensor cores (Ada): e4m3 holds 2^-9 to 448 only, so its weights follow
the row's maximum (online softmax, arXiv 1805.02867). Values are quantized by `quantize_values`, with a scale per
block that becomes part of the weight's exponent.

Tensors are (heads, tokens, width), tokens padded to whole blocks. Padding keys are zero: each adds the weight of logit
zero to a row's sum and nothing to its values, so they are counted, and subtracted once at the end.

For sparse attention, RAGGED, a block of padded tokens is a tile: *sizes* tokens from *starts* on, the rest is padding. The
kernels that pad a tile also take its mean.

Imported only where Triton and a GPU are (or its interpreter, for tests).
"""
# ruff: noqa: ANN001, ANN201, N803 (Triton reads the annotations of a kernel and writes constants in capitals)
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from anime_studio.engine.denoiser.e4m3 import E4M3_MAX as _E4M3_MAX
from anime_studio.engine.denoiser.e4m3 import SMALLEST_MAX as _SMALLEST_MAX

REACH = tl.constexpr(100.0)
"""Largest power of two of a weight: 2^100 times 2^17 keys times values of 2^9 stays below float32's 2^127."""
HEADROOM = tl.constexpr(8.0)
"""e4m3 weights are at most 2^8 = 256; e4m3's largest number is 448."""
INT8_MAX = tl.constexpr(127.0)
E4M3_MAX = tl.constexpr(_E4M3_MAX)
SMALLEST_MAX = tl.constexpr(_SMALLEST_MAX)
ROUND = tl.constexpr(12582912.0)
"""1.5 x 2^23: adding it to a small float32 and subtracting it rounds to the nearest integer."""


@triton.jit
def rows_of(starts, sizes, tokens, ROWS: tl.constexpr, RAGGED: tl.constexpr):
    """Return the tokens of this program's block of ROWS, and which of them are there."""
    block = tl.program_id(0)
    within = tl.arange(0, ROWS)
    row = (tl.load(starts + block) if RAGGED else block * ROWS) + within
    here = within < tl.load(sizes + block) if RAGGED else row < tokens
    return row, here


@triton.jit
def inverse_rms(part, here, HEADS: tl.constexpr, WIDTH: tl.constexpr, EPSILON: tl.constexpr):
    """Return 1 / root mean square over all heads of each row of *part* that is *here*."""
    columns = tl.arange(0, WIDTH)
    total = tl.zeros([here.shape[0]], tl.float32)
    for head in range(HEADS):
        x = tl.load(part + head * WIDTH + columns[None, :], mask=here[:, None], other=0.0)
        total += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    return tl.rsqrt(total / (HEADS * WIDTH) + EPSILON)


@triton.jit
def rotated(x, gain, inverse, cosines, sines):
    """Norm *x* (rows, width) and rotate its pairs; return their first and their second halves."""
    x = x.to(tl.float32) * inverse[:, None] * gain.to(tl.float32)[None, :]
    first, second = tl.split(x.reshape(x.shape[0], x.shape[1] // 2, 2))
    return first * cosines - second * sines, first * sines + second * cosines


@triton.jit
def sum_keys(
    qkv, gain, cosines, sines, sums, tokens, stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """Write the sum of ROWS normed and rotated keys that lie *stride* tokens apart to *sums* (programs, heads, width).

    A head's sums are those of its pairs' first numbers, then those of their second ones.
    """
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)) * stride
    here = (row < tokens)[:, None]
    columns, pairs = tl.arange(0, WIDTH), tl.arange(0, WIDTH // 2)
    part = qkv + row.to(tl.int64)[:, None] * (3 * HEADS * WIDTH) + HEADS * WIDTH
    inverse = inverse_rms(part, row < tokens, HEADS, WIDTH, EPSILON)
    angle = row[:, None] * (WIDTH // 2) + pairs[None, :]
    cosine = tl.load(cosines + angle, mask=here, other=0.0)
    sine = tl.load(sines + angle, mask=here, other=0.0)
    sums += tl.program_id(0) * HEADS * WIDTH
    for head in range(HEADS):
        own = head * WIDTH + columns
        key = tl.load(part + own[None, :], mask=here, other=0.0)
        first, second = rotated(key, tl.load(gain + own), inverse, cosine, sine)
        tl.store(sums + head * WIDTH + pairs, tl.sum(first, 0))
        tl.store(sums + head * WIDTH + WIDTH // 2 + pairs, tl.sum(second, 0))


@triton.jit
def quantize(
    qkv, gain_q, gain_k, cosines, sines, mean, levels, scales, norms, starts, sizes, pooled, tokens, padded,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, EPSILON: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Write queries (program 0 of axis 1) and keys (program 1) as int8, ROWS tokens a program.

    *levels* is int8 (2, heads, padded, width), *scales* and *norms* float32 (2, heads, padded): a query's own, and
    for a key the largest of its block of ROWS. *mean* is of the keys, (heads, width), in the order of `sum_keys`.
    If RAGGED, *pooled* becomes the mean of each tile, float32 (2, heads, tiles, width), in the same order.
    """
    keys = tl.program_id(1)
    row, there = rows_of(starts, sizes, tokens, ROWS, RAGGED)
    here = there[:, None]
    columns, pairs = tl.arange(0, WIDTH), tl.arange(0, WIDTH // 2)
    part = qkv + row.to(tl.int64)[:, None] * (3 * HEADS * WIDTH) + keys * (HEADS * WIDTH)
    gain = gain_k if keys else gain_q
    inverse = inverse_rms(part, there, HEADS, WIDTH, EPSILON)
    angle = row[:, None] * (WIDTH // 2) + pairs[None, :]
    cosine = tl.load(cosines + angle, mask=here, other=0.0)
    sine = tl.load(sines + angle, mask=here, other=0.0)
    for head in range(HEADS):
        own = head * WIDTH + columns
        first, second = rotated(
            tl.load(part + own[None, :], mask=here, other=0.0), tl.load(gain + own), inverse, cosine, sine
        )
        if RAGGED:
            at = pooled + ((keys * HEADS + head) * tl.num_programs(0) + tl.program_id(0)) * WIDTH + pairs
            size = tl.load(sizes + tl.program_id(0))
            tl.store(at, tl.sum(first, 0) / size)
            tl.store(at + WIDTH // 2, tl.sum(second, 0) / size)
        offset = mean + head * WIDTH + pairs
        first = tl.where(here, first - keys * tl.load(offset)[None, :], 0.0)
        second = tl.where(here, second - keys * tl.load(offset + WIDTH // 2)[None, :], 0.0)
        largest = tl.max(tl.maximum(tl.abs(first), tl.abs(second)), 1)
        square = tl.sum(first * first + second * second, 1)
        if keys:
            largest = tl.zeros_like(largest) + tl.max(largest, 0)
            square = tl.zeros_like(square) + tl.max(square, 0)
        scale = tl.maximum(largest, SMALLEST_MAX) / INT8_MAX
        whole = tl.reshape(tl.join(first, second), (ROWS, WIDTH)) / scale[:, None]
        place = (keys * HEADS + head) * padded + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        tl.store(
            levels + place.to(tl.int64)[:, None] * WIDTH + columns[None, :],
            ((whole + ROUND) - ROUND).to(tl.int8),
        )
        tl.store(scales + place, scale)
        tl.store(norms + place, tl.sqrt(square))


@triton.jit
def pool_values(
    qkv, starts, sizes, copied, pooled, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, COPY: tl.constexpr
):  # fmt: skip
    """Write the mean value of a tile of one head to *pooled*, float32 (heads, tiles, width).

    If COPY, write the values of the tile to *copied* (tiles x ROWS, heads x width), padded with zeros.
    """
    head = tl.program_id(1)
    row, here = rows_of(starts, sizes, 0, ROWS, True)
    own = head * WIDTH + tl.arange(0, WIDTH)
    at = qkv + row.to(tl.int64)[:, None] * (3 * HEADS * WIDTH) + 2 * HEADS * WIDTH + own[None, :]
    value = tl.load(at, mask=here[:, None], other=0.0)
    mean = tl.sum(value.to(tl.float32), 0) / tl.load(sizes + tl.program_id(0))
    tl.store(pooled + (head * tl.num_programs(0) + tl.program_id(0)) * WIDTH + tl.arange(0, WIDTH), mean)
    if COPY:
        place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        tl.store(copied + place.to(tl.int64)[:, None] * (HEADS * WIDTH) + own[None, :], value)


@triton.jit
def quantize_values(
    qkv, mean, levels, exponents, starts, sizes, tokens, padded,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Write values less their *mean* (heads, width) as e4m3, ROWS tokens of one head a program.

    *levels* is e4m3 (heads, width, padded); *exponents* is float32 (heads, padded / ROWS): value = level x 2^exponent.
    Within 32 tokens the order is the one in which a thread of the tensor cores holds its weights after the first
    product, 4 for the second instead of 2 and 2 (PTX, `mma.m16n8k32`): no weight changes threads in between.
    """
    head = tl.program_id(1)
    place = tl.arange(0, ROWS)
    within = place // 16 * 16 + place // 2 % 2 * 8 + place // 4 % 4 * 2 + place % 2
    row = (tl.load(starts + tl.program_id(0)) if RAGGED else tl.program_id(0) * ROWS) + within
    own = head * WIDTH + tl.arange(0, WIDTH)
    at = qkv + row.to(tl.int64)[:, None] * (3 * HEADS * WIDTH) + 2 * HEADS * WIDTH + own[None, :]
    here = (within < tl.load(sizes + tl.program_id(0)) if RAGGED else row < tokens)[:, None]
    value = tl.load(at, mask=here, other=0.0).to(tl.float32) - tl.load(mean + own)[None, :]
    value = tl.where(here, value, 0.0)
    scale = tl.maximum(tl.max(tl.max(tl.abs(value), 1), 0), SMALLEST_MAX) / E4M3_MAX
    narrow = tl.minimum(tl.maximum(value / scale, -E4M3_MAX), E4M3_MAX).to(levels.dtype.element_ty)
    token = tl.program_id(0) * ROWS + place
    tl.store(levels + own[:, None].to(tl.int64) * padded + token[None, :], tl.trans(narrow))
    tl.store(exponents + head * (padded // ROWS) + tl.program_id(0), tl.log2(scale))


@triton.jit
def load_block(
    source, first, column, limit, stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Return ROWS x COLUMNS numbers of *source*, a descriptor if DESCRIBED, zero from row *limit* on if MASKED."""
    if DESCRIBED:
        block = source.load([first, column])
    else:
        row = first + tl.arange(0, ROWS)
        at = source + row.to(tl.int64)[:, None] * stride + column + tl.arange(0, COLUMNS)[None, :]
        block = tl.load(at, mask=(row < limit)[:, None], other=0.0) if MASKED else tl.load(at)
    return block


@triton.jit
def attend(
    queries, keys, values, scales, norms, out, blocks, absent, starts, sizes, tokens, padded, logit_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, COUNT: tl.constexpr,
    LISTED: tl.constexpr, RAGGED: tl.constexpr, DESCRIBED: tl.constexpr, ALL: tl.constexpr,
):  # fmt: skip
    """Attend QUERIES queries of one head to their blocks of KEYS keys; values are bfloat16.

    Args:
        queries: int8 (heads, padded, width).
        keys: int8 (heads x padded, width).
        values: bfloat16 (tokens, heads x width), the last part of the joined projection; if RAGGED, as `pool_values`
            copied them.
        scales: See `quantize`.
        norms: See `quantize`.
        out: bfloat16 (tokens, heads x width).
        blocks: int32 (heads, padded / QUERIES, COUNT): which blocks, in which order; read if LISTED.
        absent: int32 (heads, padded / QUERIES): how many padding keys they hold; read if LISTED.
        starts: int32 (padded / QUERIES,): the token at which each tile starts; read if RAGGED.
        sizes: int32 (padded / QUERIES,): how many it has; read if RAGGED.
        tokens: How many there are.
        padded: How many with padding.
        logit_scale: 1 / sqrt(width), times log2(e).
        HEADS: How many.
        WIDTH: Of a head.
        QUERIES: In a tile.
        KEYS: In a block; `quantize` had as many ROWS.
        COUNT: Blocks that a tile attends to.
        LISTED: Whether *blocks* says which; otherwise all, in their order.
        RAGGED: Whether each block is a tile of fewer tokens than it has room for; QUERIES and KEYS are the same.
        DESCRIBED: Whether *keys* and *values* are descriptors, for Hopper's copy engine.
        ALL: A power of two, at least padded / KEYS.
    """
    head = tl.program_id(1)
    tile = head * tl.num_programs(0) + tl.program_id(0)
    place = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    columns = tl.arange(0, WIDTH)
    query = tl.load(queries + (head * padded + place).to(tl.int64)[:, None] * WIDTH + columns[None, :])
    scale = (tl.load(scales + head * padded + place) * logit_scale)[:, None]
    key_scales = scales + (HEADS + head) * padded
    each = tl.arange(0, ALL) * KEYS
    longest = tl.max(tl.load(norms + (HEADS + head) * padded + each, mask=each < padded, other=0.0), 0)
    bound = tl.load(norms + head * padded + place) * longest * logit_scale
    shift = -tl.maximum(bound - REACH, 0.0)[:, None]
    if tl.max(bound, 0) > REACH + REACH:  # shifted so far down, a row could lose all its weights
        largest = tl.full([QUERIES], -1e30, tl.float32)
        for step in tl.range(0, COUNT, num_stages=1):
            first = (tl.load(blocks + tile * COUNT + step) if LISTED else step) * KEYS
            key = load_block(keys, head * padded + first, 0, 0, WIDTH, KEYS, WIDTH, False, DESCRIBED)
            highest = tl.max(tl.dot(query, key.T, out_dtype=tl.int32), 1).to(tl.float32)
            largest = tl.maximum(largest, highest * tl.load(key_scales + first))
        shift = -(largest[:, None] * scale)
    missing = tl.load(absent + tile) if LISTED else padded - tokens
    # Four sums a row, each inside one thread of the tensor cores' layout; they become one after the last block.
    total = tl.zeros([QUERIES, 4], tl.float32)
    result = tl.zeros([QUERIES, WIDTH], tl.float32)
    first = (tl.load(blocks + tile * COUNT) if LISTED else 0) * KEYS
    key_scale = tl.load(key_scales + first)
    for step in range(COUNT):
        key = load_block(keys, head * padded + first, 0, 0, WIDTH, KEYS, WIDTH, False, DESCRIBED)
        value = load_block(
            values, first, head * WIDTH, tokens, (1 if RAGGED else 3) * HEADS * WIDTH, KEYS, WIDTH, not RAGGED,
            DESCRIBED,
        )  # fmt: skip
        logits = tl.dot(query, key.T, out_dtype=tl.int32).to(tl.float32)
        weights = tl.exp2(logits * (scale * key_scale) + shift)
        total += tl.sum(tl.sum(weights.reshape(QUERIES, KEYS // 8, 4, 2), 3), 1)
        result = tl.dot(weights.to(value.dtype), value, result)
        after = tl.minimum(step + 1, COUNT - 1)
        first = (tl.load(blocks + tile * COUNT + after) if LISTED else after) * KEYS
        key_scale = tl.load(key_scales + first)
    result = result * (1.0 / (tl.sum(total, 1, keep_dims=True) - missing * tl.exp2(shift)))
    row, here = rows_of(starts, sizes, tokens, QUERIES, RAGGED)
    at = out + row.to(tl.int64)[:, None] * (HEADS * WIDTH) + head * WIDTH + columns[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=here[:, None])


@triton.jit
def attend_e4m3(
    queries, keys, values, scales, exponents, mean, out, blocks, absent, starts, sizes, tokens, padded, logit_scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, COUNT: tl.constexpr,
    LISTED: tl.constexpr, RAGGED: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Attend as `attend` does; values are e4m3.

    Args:
        queries: See `attend`.
        keys: See `attend`.
        values: e4m3 (heads x width, padded), as `quantize_values` wrote them.
        scales: See `attend`.
        exponents: See `quantize_values`.
        mean: (heads, width): what the values lack.
        out: See `attend`.
        blocks: See `attend`.
        absent: See `attend`.
        starts: See `attend`.
        sizes: See `attend`.
        tokens: See `attend`.
        padded: See `attend`.
        logit_scale: See `attend`.
        HEADS: See `attend`.
        WIDTH: See `attend`.
        QUERIES: See `attend`.
        KEYS: See `attend`.
        COUNT: See `attend`.
        LISTED: See `attend`.
        RAGGED: See `attend`.
        DESCRIBED: See `attend`.
    """
    head = tl.program_id(1)
    tile = head * tl.num_programs(0) + tl.program_id(0)
    place = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    columns = tl.arange(0, WIDTH)
    query = tl.load(queries + (head * padded + place).to(tl.int64)[:, None] * WIDTH + columns[None, :])
    scale = tl.load(scales + head * padded + place) * logit_scale
    key_scales = scales + (HEADS + head) * padded
    exponents += head * (padded // KEYS)
    missing = tl.load(absent + tile) if LISTED else padded - tokens
    largest = tl.full([QUERIES], -1e30, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    result = tl.zeros([QUERIES, WIDTH], tl.float32)
    for step in range(COUNT):
        block = tl.load(blocks + tile * COUNT + step) if LISTED else step
        key = load_block(keys, head * padded + block * KEYS, 0, 0, WIDTH, KEYS, WIDTH, False, DESCRIBED)
        logits = tl.dot(query, key.T, out_dtype=tl.int32)
        factor = scale * tl.load(key_scales + block * KEYS)
        exponent = tl.load(exponents + block)
        risen = tl.maximum(largest, tl.max(logits, 1).to(tl.float32) * factor + exponent)
        weights = tl.exp2(logits.to(tl.float32) * factor[:, None] + (exponent - risen + HEADROOM)[:, None])
        fade = tl.exp2(largest - risen)
        total = total * fade + tl.sum(weights, 1) * tl.exp2(-exponent)
        narrow = weights.to(tl.float8e4nv).reshape(QUERIES, KEYS // 32, 2, 2, 4, 2)
        narrow = narrow.permute(0, 1, 2, 4, 3, 5).reshape(QUERIES, KEYS)  # the order of `quantize_values`
        value = load_block(values, head * WIDTH, block * KEYS, 0, padded, WIDTH, KEYS, False, DESCRIBED)
        result = tl.dot(narrow, value.T, result * fade[:, None])
        largest = risen
    result = result * (1.0 / (total - missing * tl.exp2(-(largest - HEADROOM))))[:, None]
    result += tl.load(mean + head * WIDTH + columns)[None, :]
    row, here = rows_of(starts, sizes, tokens, QUERIES, RAGGED)
    at = out + row.to(tl.int64)[:, None] * (HEADS * WIDTH) + head * WIDTH + columns[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=here[:, None])
