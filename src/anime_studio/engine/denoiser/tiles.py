"""The tokens of a clip in tiles, as sparse attention takes them: which token belongs to which tile.

Tokens are numbered by latent frame, row and column. In the order of tiles, those of a tile follow one another; a tile
at the end of a dimension may be partial. Source: FastVideo 2f3d407, `attention/backends/video_sparse_attn.py`
(`get_tile_partition_indices`, `construct_variable_block_sizes`, `compute_topk`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from anime_studio.core.recipes import SparseAttention


class Tiles(NamedTuple):
    """The tiles of one size and length of clip.

    Attributes:
        order: int64 (tokens,): the tokens in the order of tiles.
        places: int64 (tokens,): where each token is in that order.
        of_token: int64 (tokens,): the tile of each token, in the order of tiles.
        slots: int64 (tokens,): where each token is among whole tiles, in the order of tiles.
        starts: int32 (tiles,): the first place of each tile.
        sizes: int32 (tiles,): its tokens, 1 to *volume*.
        volume: Tokens of a whole tile.
        kept: Tiles that a tile of queries attends to.
    """

    order: torch.Tensor
    places: torch.Tensor
    of_token: torch.Tensor
    slots: torch.Tensor
    starts: torch.Tensor
    sizes: torch.Tensor
    volume: int
    kept: int


def padded(x: torch.Tensor, slots: torch.Tensor, sizes: torch.Tensor, volume: int) -> torch.Tensor:
    """Return *x* (tokens, …), in the order of tiles, as (tiles, volume, …); partial tiles end in zeros."""
    whole = x.new_zeros((len(sizes) * volume, *x.shape[1:]))
    return whole.index_copy(0, slots, x).view(-1, volume, *x.shape[1:])


def tiles_of(grid: tuple[int, ...], sparse: SparseAttention, device: torch.device) -> Tiles:
    """Return the tiles of a clip of *grid* tokens: latent frames, rows, columns."""
    along = [torch.arange(size) // side for size, side in zip(grid, sparse.tile, strict=True)]
    counts = [-(-size // side) for size, side in zip(grid, sparse.tile, strict=True)]
    frames, rows, columns = torch.meshgrid(*along, indexing="ij")
    tile = ((frames * counts[1] + rows) * counts[2] + columns).flatten()
    order = tile.argsort(stable=True)
    of_token, sizes = tile[order], tile.bincount()
    starts, volume = F.pad(sizes.cumsum(0)[:-1], (1, 0)), math.prod(sparse.tile)
    # As they compute it, with the same rounding: 1 - 0.8 is 0.19999999999999996.
    kept = max(1, min(math.ceil((1 - sparse.sparsity) * len(sizes)), len(sizes)))
    return Tiles(
        order=order.to(device),
        places=order.argsort().to(device),
        of_token=of_token.to(device),
        slots=(of_token * volume + torch.arange(len(order)) - starts[of_token]).to(device),
        starts=starts.int().to(device),
        sizes=sizes.int().to(device),
        volume=volume,
        kept=kept,
    )
