"""Video Sparse Attention one tile and one token after another, in float64: what ours is compared with."""

from __future__ import annotations

import itertools
import math

import torch


def walked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    gate: torch.Tensor,
    grid: tuple[int, int, int],
    tile: tuple[int, int, int],
    kept: int,
) -> torch.Tensor:
    """Return (tokens, heads, width) of tensors of that shape; tokens by latent frame, row and column."""
    query, key, value, gate = (x.double() for x in (query, key, value, gate))
    members = _members(grid, tile)
    out = torch.zeros_like(query)
    for head in range(query.shape[1]):
        q, k, v = (x[:, head] for x in (query, key, value))
        means = [tuple(x[own].sum(0) / len(own) for x in (q, k, v)) for own in members]
        for (mean_query, _, _), own in zip(means, members, strict=True):
            scores = [float(mean_query @ mean_key) / math.sqrt(q.shape[1]) for _, mean_key, _ in means]
            shares = torch.tensor(scores).softmax(0)
            coarse = sum(share * mean for share, (_, _, mean) in zip(shares, means, strict=True))
            best = sorted(range(len(members)), key=lambda index: -scores[index])[:kept]
            seen = list(itertools.chain.from_iterable(members[index] for index in best))
            for token in own:
                weights = (k[seen] @ q[token] / math.sqrt(q.shape[1])).softmax(0)
                out[token, head] = weights @ v[seen] + coarse * gate[token, head]
    return out


def _members(grid: tuple[int, int, int], tile: tuple[int, int, int]) -> list[list[int]]:
    """Return the tokens of each tile."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, place in enumerate(itertools.product(*(range(size) for size in grid))):
        at = tuple(index // side for index, side in zip(place, tile, strict=True))
        found.setdefault(at, []).append(number)
    return [found[at] for at in sorted(found)]
