"""The denoiser as the engine calls it: `condition` on the text once per clip, then one forward per step.

`PlainDenoiser` is diffusers' own forward. `FusedDenoiser` runs the same weights in our blocks: one projection for query,
key and value; the text's keys and values computed once per clip; rotary embedding without strided writes. So
`torch.compile` makes one kernel of each norm, gate and activation. `FusedDenoiser` replaces the transformer's blocks by
its own, so that each weight exists once, as bfloat16 or e4m3.

With sparse attention the fused denoiser keeps its tokens in the order of tiles from the first block to the last: all but
attention takes each token by itself. Partial tiles are filled up inside attention only.

Source: diffusers 0.42.1, `transformer_wan.py` (`WanTransformerBlock`, `WanTransformer3DModel.forward`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import nn

from anime_studio.core.errors import CheckpointError
from anime_studio.core.recipes import SparseAttention
from anime_studio.engine.acceleration import Acceleration, Attention
from anime_studio.engine.denoiser.attention import attend
from anime_studio.engine.denoiser.fp8_linear import Fp8Linear
from anime_studio.engine.denoiser.int8_attention import int8_attention, int8_sparse_attention
from anime_studio.engine.denoiser.sparse_attention import attend_sparsely, with_gate
from anime_studio.engine.denoiser.tiles import Tiles, tiles_of

Rotary = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, (1, tokens, 1, width / 2) each."""


class Denoiser(Protocol):
    """Predicts velocities for one clip after another."""

    def condition(self, embeddings: torch.Tensor) -> Any:
        """Return what each step needs of the text: *embeddings* is (1, tokens, text_dim)."""
        ...

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, text: Any) -> torch.Tensor:
        """Return the velocity: like *latents*, (1, z, latent frames, height / 8, width / 8)."""
        ...


def denoiser_for(
    transformer: Any, acceleration: Acceleration, sparse: SparseAttention | None = None
) -> Denoiser:
    """Return the denoiser that *acceleration* asks for; a fused one replaces the blocks of *transformer*.

    Args:
        transformer: diffusers' model, with gates if *sparse* (`loading.gated_transformer`).
        acceleration: The options.
        sparse: What it was trained with; None for dense attention.

    Raises:
        CheckpointError: The fused denoiser does not support this model (image to video).
    """
    if acceleration.fused_denoiser:
        return FusedDenoiser(transformer, acceleration, sparse)
    return PlainDenoiser(transformer, sparse)


class PlainDenoiser:
    """diffusers' forward, unchanged but for attention that is sparse."""

    def __init__(self, transformer: Any, sparse: SparseAttention | None = None) -> None:
        self._transformer = transformer
        self._tiles = TilesOfClips(transformer, sparse)
        self._processors = [SparseProcessor(block) for block in transformer.blocks] if sparse else []
        self._dtype: torch.dtype = transformer.patch_embedding.weight.dtype  # some others stay in float32

    def condition(self, embeddings: torch.Tensor) -> torch.Tensor:
        """See `Denoiser`."""
        return embeddings.to(self._dtype)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """See `Denoiser`."""
        for processor in self._processors:
            processor.tiles = self._tiles.of(latents)
        velocity: torch.Tensor = self._transformer(
            hidden_states=latents.to(self._dtype),
            timestep=timestep.expand(latents.shape[0]),
            encoder_hidden_states=text,
            return_dict=False,
        )[0]
        return velocity


class TilesOfClips:
    """The tiles of each size and length of clip that was generated."""

    def __init__(self, transformer: Any, sparse: SparseAttention | None) -> None:
        self._patch: tuple[int, ...] = transformer.config.patch_size
        self._sparse = sparse
        self._known: dict[tuple[int, ...], Tiles] = {}

    def grid(self, latents: torch.Tensor) -> tuple[int, ...]:
        """Return the tokens of *latents* (1, z, frames, height, width): latent frames, rows and columns."""
        return tuple(size // patch for size, patch in zip(latents.shape[2:], self._patch, strict=True))

    def of(self, latents: torch.Tensor) -> Tiles | None:
        """Return the tiles of *latents*, on their device; None for dense attention."""
        if self._sparse is None:
            return None
        grid = self.grid(latents)
        if grid not in self._known:
            self._known[grid] = tiles_of(grid, self._sparse, latents.device)
        return self._known[grid]


class SparseProcessor:
    """What diffusers calls for the self-attention of *block*, in place of its own; `tiles` is set before a forward."""

    tiles: Tiles | None = None

    def __init__(self, block: Any) -> None:
        self._gate = block.to_gate_compress
        block.attn1.set_processor(self)

    def __call__(
        self, attn: Any, hidden: torch.Tensor, _text: None, _mask: None, rotary: Rotary
    ) -> torch.Tensor:
        """Return self-attention of *hidden* (1, tokens, dim), both by frame, row and column."""
        tiles = self.tiles
        assert tiles is not None
        cosines, sines = (table[:, tiles.order] for table in (rotary[0][..., 0::2], rotary[1][..., 1::2]))
        x = hidden[:, tiles.order]
        query, key, value = (
            part.unflatten(2, (attn.heads, -1))
            for part in (attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(x)), attn.to_v(x))
        )
        fine, coarse = attend_sparsely(
            _rotate(query, cosines, sines), _rotate(key, cosines, sines), value, tiles
        )
        out = with_gate(fine.flatten(2), coarse.flatten(1), self._gate(x), tiles)
        attended: torch.Tensor = attn.to_out[0](out)[:, tiles.places]
        return attended


class FusedDenoiser:
    """The same model with our blocks; the small parts of *transformer* stay diffusers' own."""

    def __init__(
        self, transformer: Any, acceleration: Acceleration, sparse: SparseAttention | None = None
    ) -> None:
        if transformer.config.added_kv_proj_dim is not None or transformer.config.image_dim is not None:
            raise CheckpointError("transformer/config.json: an image-to-video denoiser is not supported")
        self._transformer = transformer
        self._tiles = TilesOfClips(transformer, sparse)
        self._dtype: torch.dtype = transformer.patch_embedding.weight.dtype
        for index, block in enumerate(transformer.blocks):
            transformer.blocks[index] = FusedBlock(block, acceleration, gated=sparse is not None)
            if acceleration.compile_blocks:
                transformer.blocks[index].compile(fullgraph=True)
        self._rotary: dict[tuple[int, ...], Rotary] = {}

    @torch.inference_mode()
    def condition(self, embeddings: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each block's key and value of the text, (1, tokens, heads, width) each."""
        text = self._transformer.condition_embedder.text_embedder(embeddings.to(self._dtype))
        return [block.text_key_value(text) for block in self._transformer.blocks]

    @torch.inference_mode()
    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """See `Denoiser`."""
        model = self._transformer
        tiles = self._tiles.of(latents)
        rotary = self._rotary_for(latents, tiles)
        hidden = model.patch_embedding(latents.to(self._dtype)).flatten(2).transpose(1, 2).contiguous()
        if tiles is not None:
            hidden = hidden[:, tiles.order]
        time, modulation = self._time(timestep.expand(latents.shape[0]))
        for block, (key, value) in zip(model.blocks, text, strict=True):
            hidden = block(hidden, key, value, modulation, *rotary, tiles)
        shift, scale = (model.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        normed = model.norm_out(hidden.float()) * (1 + scale) + shift
        patches = model.proj_out(normed.type_as(hidden))
        if tiles is not None:
            patches = patches[:, tiles.places]
        return _unpatchify(patches, self._tiles.grid(latents), model.config.patch_size)

    def _time(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedder = self._transformer.condition_embedder
        waves = embedder.timesteps_proj(timestep).to(embedder.time_embedder.linear_1.weight.dtype)
        time = embedder.time_embedder(waves).to(self._dtype)
        return time, embedder.time_proj(embedder.act_fn(time)).unflatten(1, (6, -1))

    def _rotary_for(self, latents: torch.Tensor, tiles: Tiles | None) -> Rotary:
        shape = tuple(latents.shape)
        if shape not in self._rotary:
            cosines, sines = self._transformer.rope(latents)
            # diffusers stores each angle twice, once for each channel of a pair.
            each = cosines[..., 0::2], sines[..., 1::2]
            order = slice(None) if tiles is None else tiles.order
            self._rotary[shape] = each[0][:, order].contiguous(), each[1][:, order].contiguous()
        return self._rotary[shape]


class FusedBlock(nn.Module):
    """One layer: self-attention, attention to the text, feed-forward, each gated by the timestep.

    Args:
        block: `WanTransformerBlock`; this block takes its weights over.
        acceleration: Which linears and which attention.
        gated: Whether attention is sparse, and *block* has its gate.
    """

    def __init__(self, block: Any, acceleration: Acceleration, *, gated: bool = False) -> None:
        super().__init__()
        own, text = block.attn1, block.attn2
        self._heads: int = own.heads
        self._attention = acceleration.attention
        linear = _fp8 if acceleration.fp8_linears else _plain
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.scale_shift_table = block.scale_shift_table
        self.to_qkv = linear(own.to_q, own.to_k, own.to_v)
        self.to_gate = linear(block.to_gate_compress) if gated else None
        self.norm_q, self.norm_k = own.norm_q, own.norm_k
        self.to_out = linear(own.to_out[0])
        self.text_q, self.text_norm_q, self.text_norm_k = linear(text.to_q), text.norm_q, text.norm_k
        self.text_kv = _plain(text.to_k, text.to_v)  # runs once per clip: 8 bits would gain nothing
        self.text_out = linear(text.to_out[0])
        self.ffn_up, self.ffn_down = linear(block.ffn.net[0].proj), linear(block.ffn.net[2])

    def text_key_value(self, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return key and value of the embedded text, (1, tokens, heads, width) each."""
        key, value = self.text_kv(text).chunk(2, dim=-1)
        return self._split(self.text_norm_k(key)), self._split(value).contiguous()

    def forward(
        self,
        hidden: torch.Tensor,
        text_key: torch.Tensor,
        text_value: torch.Tensor,
        modulation: torch.Tensor,
        cosines: torch.Tensor,
        sines: torch.Tensor,
        tiles: Tiles | None = None,
    ) -> torch.Tensor:
        """Return *hidden* (1, tokens, dim) after this layer; *modulation* is (1, 6, dim).

        With *tiles*, the tokens of all tensors are in their order, and attention is sparse.
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
            self.scale_shift_table + modulation.float()
        ).chunk(6, dim=1)
        x = (self.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        if self.to_gate is None or tiles is None:
            own = self.attend_to_itself(self.to_qkv(x), cosines, sines)
        else:
            fine, coarse = self.attend_to_tiles(self.to_qkv(x), cosines, sines, tiles)
            own = with_gate(fine, coarse, self.to_gate(x), tiles)
        hidden = (hidden.float() + self.to_out(own) * gate).type_as(hidden)

        x = self.norm2(hidden.float()).type_as(hidden)
        query = self._split(self.text_norm_q(self.text_q(x)))
        hidden = hidden + self.text_out(attend(query, text_key, text_value).flatten(2))

        x = (self.norm3(hidden.float()) * (1 + ffn_scale) + ffn_shift).type_as(hidden)
        x = self._feed_down(self.ffn_up(x))
        out: torch.Tensor = (hidden.float() + x.float() * ffn_gate).type_as(hidden)
        return out

    def attend_to_itself(self, qkv: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        """Return self-attention (1, tokens, dim) of the joined projection *qkv* (1, tokens, 3 x dim)."""
        if self._attention is Attention.INT8:
            gains = self.norm_q.weight, self.norm_k.weight
            attended: torch.Tensor = int8_attention(qkv, *gains, cosines, sines, self._heads, self.norm_q.eps)
            return attended
        return attend(*self._normed_and_rotated(qkv, cosines, sines)).flatten(2)

    def attend_to_tiles(
        self, qkv: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, tiles: Tiles
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both branches of sparse self-attention: fine (1, tokens, dim) and coarse (tiles, dim)."""
        if self._attention is Attention.INT8:
            gains = self.norm_q.weight, self.norm_k.weight
            given = self._heads, self.norm_q.eps, tiles.starts, tiles.sizes, tiles.volume, tiles.kept
            both: tuple[torch.Tensor, torch.Tensor] = int8_sparse_attention(
                qkv, *gains, cosines, sines, *given
            )
            return both
        fine, coarse = attend_sparsely(*self._normed_and_rotated(qkv, cosines, sines), tiles)
        return fine.flatten(2), coarse.flatten(1)

    def _normed_and_rotated(
        self, qkv: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value = qkv.chunk(3, dim=-1)
        query = _rotate(self._split(self.norm_q(query)), cosines, sines)
        key = _rotate(self._split(self.norm_k(key)), cosines, sines)
        # SDPA picks cuDNN on Hopper, whose results were wrong for a strided value (diffusers, attention_dispatch.py):
        # it gets contiguous tensors only.
        return query, key, self._split(value).contiguous()

    def _feed_down(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.ffn_down, Fp8Linear):
            return self.ffn_down.after_gelu(x)
        down: torch.Tensor = self.ffn_down(F.gelu(x, approximate="tanh"))
        return down

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:2], self._heads, -1)


def _rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([first * cosines - second * sines, first * sines + second * cosines], dim=-1)
    return turned.flatten(-2).type_as(x)


def _plain(*linears: nn.Linear) -> nn.Module:
    if len(linears) == 1:
        return linears[0]
    weight, bias = _joined(linears)
    fused = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    fused.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return fused.requires_grad_(False)


def _fp8(*linears: nn.Linear) -> nn.Module:
    weight, bias = _joined(linears)
    return Fp8Linear(weight, bias) if Fp8Linear.fits(weight) else _plain(*linears)


def _joined(linears: tuple[nn.Linear, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    weights = [linear.weight.detach() for linear in linears]
    biases = [linear.bias.detach() for linear in linears]
    return torch.cat(weights), torch.cat(biases)


def _unpatchify(patches: torch.Tensor, grid: tuple[int, ...], patch: tuple[int, ...]) -> torch.Tensor:
    tiles = patches.reshape(patches.shape[0], *grid, *patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return tiles.flatten(6, 7).flatten(4, 5).flatten(2, 3)
