"""Sparse attention in plain torch operations: beside dense attention, and beside one that walks tile after tile."""

import pytest
import torch

from anime_studio.core.recipes import FASTWAN_VSA_3STEP, SparseAttention
from anime_studio.engine.denoiser.attention import attend
from anime_studio.engine.denoiser.sparse_attention import attend_sparsely, with_gate
from anime_studio.engine.denoiser.tiles import tiles_of
from support.sparse_attention import walked

TILE = (4, 4, 4)
WHOLE, PARTIAL = (4, 8, 8), (5, 6, 9)
"""Four tiles; eight or more, of which most are partial in one, two or three dimensions."""
CPU = torch.device("cpu")


def given(grid: tuple[int, int, int], heads: int = 2, width: int = 16) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    tokens = grid[0] * grid[1] * grid[2]
    return [torch.randn(1, tokens, heads, width, generator=chance) for _ in range(4)]


def ours(grid: tuple[int, int, int], sparsity: float, gate_of: float = 1.0) -> torch.Tensor:
    query, key, value, gate = given(grid)
    tiles = tiles_of(grid, SparseAttention(TILE, sparsity), CPU)
    ordered = [x[:, tiles.order] for x in (query, key, value, gate * gate_of)]
    fine, coarse = attend_sparsely(*ordered[:3], tiles)
    both = with_gate(fine.flatten(2), coarse.flatten(1), ordered[3].flatten(2), tiles)
    return both[:, tiles.places].unflatten(2, (2, -1))


@pytest.mark.parametrize("grid", [WHOLE, PARTIAL])
def test_all_tiles_and_no_gate_are_dense_attention(grid):
    query, key, value, _ = given(grid)

    torch.testing.assert_close(
        ours(grid, sparsity=0, gate_of=0), attend(query, key, value), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("grid", [WHOLE, PARTIAL])
@pytest.mark.parametrize(("sparsity", "kept"), [(0.8, {WHOLE: 1, PARTIAL: 3}), (0.4, {WHOLE: 3, PARTIAL: 8})])
def test_it_is_what_one_gets_tile_by_tile(grid, sparsity, kept):
    expected = walked(*(x[0] for x in given(grid)), grid, TILE, kept[grid])

    torch.testing.assert_close(ours(grid, sparsity)[0].double(), expected, rtol=0, atol=2e-6)


def test_a_clip_of_81_frames_has_the_tiles_that_the_checkpoint_was_trained_on():
    tiles = tiles_of((21, 30, 52), FASTWAN_VSA_3STEP.sparse, CPU)

    assert len(tiles.sizes) == 6 * 8 * 13
    assert int(tiles.sizes.sum()) == 21 * 30 * 52
    assert sorted(set(tiles.sizes.tolist())) == [8, 16, 32, 64]
    assert tiles.kept == 125  # a fifth of 624, rounded up


def test_a_tile_holds_neighbours_in_time_and_space():
    tiles = tiles_of((8, 8, 8), SparseAttention(TILE, 0.5), CPU)
    frames, rows, columns = tiles.order // 64, tiles.order // 8 % 8, tiles.order % 8

    for axis in (frames, rows, columns):
        assert all(len(set((axis[64 * tile : 64 * tile + 64] // 4).tolist())) == 1 for tile in range(8))


def test_many_tiles_are_attended_to_some_at_a_time(monkeypatch):
    whole = ours(PARTIAL, 0.5)
    monkeypatch.setattr("anime_studio.engine.denoiser.sparse_attention._TILES_AT_ONCE", 5)

    torch.testing.assert_close(ours(PARTIAL, 0.5), whole, rtol=0, atol=1e-6)
