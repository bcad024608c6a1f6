"""Video Sparse Attention (arXiv 2505.13389) in plain torch operations: two branches that are added.

The coarse branch attends from the mean query of a tile to the mean keys and values of all tiles; each token of the
tile gets the same result, times a gate of its own. Its scores choose the tiles that the fine branch attends to, token
by token. Source: FastVideo 2f3d407, `fastvideo-kernel/python/fastvideo_kernel/ops.py` (`video_sparse_attn`).

This is the path of a CPU, and of a GPU that refuses the kernels of `int8_attention`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from anime_studio.engine.denoiser.tiles import Tiles, padded

_TILES_AT_ONCE: Final = 64
"""Of one head: their keys and values take 0.26 GB at full shape in bfloat16."""


def attend_sparsely(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiles: Tiles
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the fine branch, like *query*, and the coarse one, (tiles, heads, width), both in the dtype of *query*.

    Args:
        query: (1, tokens, heads, width), in the order of tiles; normed and rotated.
        key: The same.
        value: The same.
        tiles: Of this size and length of clip.
    """
    given = tiles.slots, tiles.sizes, tiles.volume, tiles.kept
    both: tuple[torch.Tensor, torch.Tensor] = _attend(query, key, value, *given)
    return both


# One operation for `torch.compile`, which would else write out every head and every few tiles.
@torch.library.custom_op("anime_studio::attend_sparsely", mutates_args=())
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slots: torch.Tensor,
    sizes: torch.Tensor,
    volume: int,
    kept: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    in_tiles = [padded(x[0], slots, sizes, volume) for x in (query, key, value)]
    means = [(x.float().sum(1) / sizes[:, None, None]).transpose(0, 1) for x in in_tiles]
    scores, coarse = coarse_branch(means[0], means[1], means[2])
    fine = _fine_branch(in_tiles, sizes, scores.topk(kept, sorted=False).indices)
    return fine.flatten(0, 1)[slots][None], coarse.transpose(0, 1).contiguous().to(query.dtype)


@_attend.register_fake
def _(query: torch.Tensor, *others: Any) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = others[3]
    return query.new_empty(query.shape), query.new_empty((sizes.shape[0], *query.shape[2:]))


def with_gate(fine: torch.Tensor, coarse: torch.Tensor, gate: torch.Tensor, tiles: Tiles) -> torch.Tensor:
    """Return the sum of both branches, (1, tokens, dim): *gate* has this shape, and *fine*; *coarse* is (tiles, dim)."""
    return fine + coarse[tiles.of_token] * gate


def coarse_branch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores, float32 (heads, tiles, tiles), and attended values of pooled (heads, tiles, width)."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return scores, scores.softmax(-1) @ value


def _fine_branch(in_tiles: list[torch.Tensor], sizes: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return what each of *in_tiles*, (tiles, volume, heads, width), is; *chosen* is (heads, tiles, those attended to)."""
    there = torch.arange(in_tiles[0].shape[1], device=sizes.device) < sizes[:, None]
    out = torch.empty_like(in_tiles[0])
    for head, of_all in enumerate(chosen):
        queries, keys, values = (x[:, :, head] for x in in_tiles)
        for first, listed in enumerate(of_all.split(_TILES_AT_ONCE)):
            some = slice(first * _TILES_AT_ONCE, first * _TILES_AT_ONCE + len(listed))
            out[some, :, head] = F.scaled_dot_product_attention(
                queries[some],
                keys[listed].flatten(1, 2),
                values[listed].flatten(1, 2),
                attn_mask=there[listed].flatten(1)[:, None],
            )
    return out
