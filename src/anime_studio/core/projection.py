"""What a clip should cost on a card nobody has measured: an explicit, small model.

A stage takes `flops / (peak x share)` on the tensor cores, and for what lies between the matrices
`bytes / (bandwidth x share) + operations / vector peak`. FLOPs and bytes follow from the shapes of Wan 2.1 1.3B by
count; shares and vector operations are what our engine showed on one H200, kernel by kernel, and are carried to other
cards by their data-sheet peaks. The text encoder's weights come over the link to the card, which takes longer than
its arithmetic. Every result is a projection and is labelled so. An L4 is held back by its 72 W, which
this model does not know, and nothing ran on Ada or Ampere here: read the figures of those cards as plus or minus a third.

Sources: Wan2.1 `wan/configs/wan_t2v_1_3B.py` (30 layers, dim 1536, ffn 8960, patch 1x2x2, VAE stride
4x8x8); NVIDIA data sheets of each card (dense rates without sparsity); measurements: one H200, torch
2.11+cu130, random weights at full shape, 2026-11-23, `torch.profiler` and `benchmarks/results/engine_h200.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from anime_studio.core.errors import BudgetExceededError, ConfigurationError
from anime_studio.core.pricing import MODAL_RATES, Machine, RateTable
from anime_studio.core.recipes import Recipe
from common.schemas import ClipSpec

_LAYERS, _DIM, _FFN, _TEXT_TOKENS = 30, 1536, 8960, 512
_TEXT_FLOPS = 4.7e12  # UMT5-XXL, 512 tokens: 2 x 4.63e9 parameters (embedding excluded) x 512
_TEXT_BYTES = 42e9  # its int8 weights read, widened to bfloat16 in two passes, and read again
_TEXT_LINK_BYTES = 4.63e9  # its layers in int8, copied to the card for each prompt
_FULL_PIXELS, _FULL_TOKENS = 81 * 480 * 832, 32_760
_DECODE_FLOPS_PER_PIXEL = 262e12 / _FULL_PIXELS  # decoder's convolutions at full shape, by count

# Shares of an H200's peak (989e12 FLOP/s bf16, 1,979e12 in 8 bits, 4.8e12 bytes/s) that each kind of work reached.
_ATTENTION_BF16 = 0.57  # cuDNN: 201e12 FLOPs in 354 ms
_ATTENTION_E4M3 = 0.41  # cuDNN: the same in 247 ms, the part that looks at the text in bf16
_LINEARS_BF16 = 0.79  # feed-forward up: 781e12 FLOP/s
_LINEARS_E4M3 = 0.72  # 81.9e12 FLOPs in 57.7 ms
_CONVOLUTIONS = 0.57  # 262e12 FLOPs in 467 ms
_BANDWIDTH = 0.90  # copies: 4.3e12 bytes/s
_LINK = 0.87  # 55e9 bytes/s of 63e9 from locked main memory
_H200_BYTES_PER_S, _H200_VECTOR_FLOPS = 4.8e12 * _BANDWIDTH, 67e12

# Norms, gates, rotary and steps to 8 bits, in passes over a layer's (tokens, dim) in bf16, by count of what is read and written.
_DENOISE_BYTES_PER_TOKEN = 31 * _DIM * 2.0 * _LAYERS
# Norms, sums, biases and doublings of the decoder at full shape, by count.
_DECODE_BYTES_PER_PIXEL = 305e9 / _FULL_PIXELS
# What these kernels took on the H200 beyond their bytes is arithmetic: tanh, divisions, reductions, indices.
_DENOISE_VECTOR_S = 0.0581 - _DENOISE_BYTES_PER_TOKEN * _FULL_TOKENS / _H200_BYTES_PER_S
_DECODE_VECTOR_S = 0.120 - _DECODE_BYTES_PER_PIXEL * _FULL_PIXELS / _H200_BYTES_PER_S
_DENOISE_VECTOR_PER_TOKEN = _DENOISE_VECTOR_S * _H200_VECTOR_FLOPS / _FULL_TOKENS
_DECODE_VECTOR_PER_PIXEL = _DECODE_VECTOR_S * _H200_VECTOR_FLOPS / _FULL_PIXELS


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU's data-sheet peaks.

    Attributes:
        name: As Modal calls it.
        capability: CUDA compute capability; it decides which fast paths the engine takes (`engine.acceleration`).
        bf16_flops: Dense bf16 FLOP/s.
        eight_bit_ops: Dense 8-bit operations/s, int8 and, from (8, 9) on, e4m3.
        vector_flops: float32 FLOP/s outside the tensor cores.
        bandwidth_bytes_per_s: Of its memory.
        link_bytes_per_s: From main memory, one way: 16 lanes of PCIe 4 or 5.
    """

    name: str
    capability: tuple[int, int]
    bf16_flops: float
    eight_bit_ops: float
    vector_flops: float
    bandwidth_bytes_per_s: float
    link_bytes_per_s: float


_PCIE_4, _PCIE_5 = 31.5e9, 63e9  # 16 lanes of 16 and 32 GT/s, 128 of 130 bits of which are data

CARDS: Mapping[str, Card] = MappingProxyType(
    {
        card.name: card
        for card in (
            Card("L4", (8, 9), 121e12, 242e12, 30.3e12, 300e9, _PCIE_4),
            Card("A10", (8, 6), 125e12, 250e12, 31.2e12, 600e9, _PCIE_4),
            Card("L40S", (8, 9), 362e12, 733e12, 91.6e12, 864e9, _PCIE_4),
            Card("A100-80GB", (8, 0), 312e12, 624e12, 19.5e12, 2039e9, _PCIE_4),
            Card("H100", (9, 0), 989e12, 1979e12, 67e12, 3350e9, _PCIE_5),
            Card("H200", (9, 0), 989e12, 1979e12, 67e12, 4800e9, _PCIE_5),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected seconds and dollars of one clip on one card; nothing in it was measured there."""

    card: str
    recipe: str
    text_s: float
    denoise_s: float
    decode_s: float
    usd: float
    idle_tail_usd: float
    cold_start_usd: float

    @property
    def total_s(self) -> float:
        """Seconds from text to the last frame."""
        return self.text_s + self.denoise_s + self.decode_s


def project(
    recipe: Recipe,
    machine: Machine,
    *,
    spec: ClipSpec | None = None,
    scaledown_window_s: float = 0.0,
    cold_start_s: float = 0.0,
    rates: RateTable = MODAL_RATES,
) -> Projection:
    """Return what a clip of *recipe* should take and cost on *machine*.

    Args:
        recipe: A recipe of the 1.3B model.
        machine: GPU type, CPU cores and memory.
        spec: A particular clip; absent means the recipe's longest with its own steps.
        scaledown_window_s: Idle seconds billed after a lone clip, shown apart.
        cold_start_s: Billed seconds before the first clip, shown apart.
        rates: Dated price list.

    Raises:
        ConfigurationError: The card is not in `CARDS` or has no price.
    """
    card = CARDS.get(machine.gpu or "")
    if card is None:
        raise ConfigurationError(f"no data sheet for GPU {machine.gpu!r}; known: {', '.join(CARDS)}")
    width, height = next(iter(recipe.native_sizes.values()))
    frames = recipe.max_frames if spec is None else spec.num_frames
    tokens = (1 + (frames - 1) // 4) * (height // 16) * (width // 16)
    sampled = recipe if spec is None else spec
    forwards = sampled.num_inference_steps * (1 if sampled.guidance_scale is None else 2)
    computing_s = _TEXT_FLOPS / (card.bf16_flops * _LINEARS_BF16) + _between_s(_TEXT_BYTES, 0, card)
    text_s = max(computing_s, _TEXT_LINK_BYTES / (card.link_bytes_per_s * _LINK))
    denoise_s = forwards * _forward_s(tokens, card, attends_in_8bit=recipe.trained_with_8bit_attention)
    decode_s = _decode_s(frames * width * height, card)
    usd_per_s = machine.usd_per_s(rates)
    return Projection(
        card=card.name,
        recipe=recipe.name,
        text_s=text_s,
        denoise_s=denoise_s,
        decode_s=decode_s,
        usd=(text_s + denoise_s + decode_s) * usd_per_s,
        idle_tail_usd=scaledown_window_s * usd_per_s,
        cold_start_usd=cold_start_s * usd_per_s,
    )


def refuse_over_budget(spec: ClipSpec, recipe: Recipe, machine: Machine, budget_usd: float | None) -> None:
    """Refuse a clip whose projected cost passes *budget_usd*, before it wakes a GPU.

    Machines nobody bills for and our own tiny checkpoints are never refused.

    Raises:
        BudgetExceededError: The detail says both sums and what would be cheaper.
    """
    if budget_usd is None or machine.gpu is None or recipe.repo_id is None:
        return
    projected = project(recipe, machine, spec=spec)
    if projected.usd > budget_usd:
        raise BudgetExceededError(
            f"the clip is projected to cost ${projected.usd:.4f} on {machine.gpu} ({projected.total_s:.0f} s), over the "
            f"budget of ${budget_usd:.4f} per clip; ask for fewer steps or a shorter clip, or raise the budget"
        )


def forward_flops(tokens: int) -> tuple[float, float]:
    """Return the FLOPs of one denoise forward: (attention, linears) for *tokens* latent tokens."""
    self_attention = 4.0 * tokens * tokens * _DIM * _LAYERS
    cross_attention = 4.0 * tokens * _TEXT_TOKENS * _DIM * _LAYERS
    linears = 2.0 * tokens * (6 * _DIM * _DIM + 2 * _DIM * _FFN) * _LAYERS
    return self_attention + cross_attention, linears


def _forward_s(tokens: int, card: Card, *, attends_in_8bit: bool) -> float:
    attention, linears = forward_flops(tokens)
    attention_rate = _8bit_attention_rate(card) if attends_in_8bit else card.bf16_flops * _ATTENTION_BF16
    has_e4m3 = card.capability >= (8, 9)
    linears_rate = card.eight_bit_ops * _LINEARS_E4M3 if has_e4m3 else card.bf16_flops * _LINEARS_BF16
    between_s = _between_s(tokens * _DENOISE_BYTES_PER_TOKEN, tokens * _DENOISE_VECTOR_PER_TOKEN, card)
    return attention / attention_rate + linears / linears_rate + between_s


def _8bit_attention_rate(card: Card) -> float:
    """Return FLOP/s: measured on Hopper; elsewhere by count, half of it in int8 and half in 16 bits.

    SageAttention multiplies queries by keys in int8 and weights by values in 16 bits; at the share that bf16 reached this
    makes 1.33 times bf16's rate. Its authors report 2.1 times FlashAttention2 on an RTX 4090 (arXiv 2410.02367).
    """
    if card.capability >= (9, 0):
        return card.eight_bit_ops * _ATTENTION_E4M3
    return 2 / (1 / card.eight_bit_ops + 1 / card.bf16_flops) * _ATTENTION_BF16


def _decode_s(pixels: int, card: Card) -> float:
    convolutions_s = pixels * _DECODE_FLOPS_PER_PIXEL / (card.bf16_flops * _CONVOLUTIONS)
    return convolutions_s + _between_s(
        pixels * _DECODE_BYTES_PER_PIXEL, pixels * _DECODE_VECTOR_PER_PIXEL, card
    )


def _between_s(size_bytes: float, vector_flops: float, card: Card) -> float:
    return size_bytes / (card.bandwidth_bytes_per_s * _BANDWIDTH) + vector_flops / card.vector_flops
