"""What a clip should cost on a card nobody has measured: an explicit, small model.

A stage takes `flops / (peak x share) + bytes / (bandwidth x share)`. FLOPs follow from the shapes of Wan 2.1 1.3B;
shares and bytes are what our engine sustained on one H200, kernel by kernel, and are carried to other cards by
their data-sheet peaks. Every result is a projection and is labelled so. An L4 is held back by its 72 W, which this
model does not know, and 8-bit attention on Ada and Ampere is left out, since nobody measured it here: read the
figures of those cards as plus or minus a third.

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
_FULL_PIXELS, _FULL_TOKENS = 81 * 480 * 832, 32_760
_DECODE_FLOPS_PER_PIXEL = 275e12 / _FULL_PIXELS  # decoder's convolutions at full shape, by count

# Shares of an H200's peak (989e12 FLOP/s bf16, 1,979e12 in 8 bits, 4.8e12 bytes/s) that each kind of work reached.
_ATTENTION_BF16 = 0.54  # cuDNN: 197.8e12 FLOPs in 370 ms
_ATTENTION_8BIT = 0.41  # cuDNN: the same in 245.5 ms
_LINEARS_BF16 = 0.79  # feed-forward up: 781e12 FLOP/s
_LINEARS_8BIT = 0.70  # 81.9e12 FLOPs in 58.8 ms
_CONVOLUTIONS = 0.51  # 275e12 FLOPs in 541 ms
_BANDWIDTH = 0.90  # copies: 4.3e12 bytes/s
_H200_BYTES_PER_S = 4.8e12 * _BANDWIDTH
_DENOISE_BYTES_PER_TOKEN = 0.0837 * _H200_BYTES_PER_S / _FULL_TOKENS  # norms, gates, rotary, quantising
_DECODE_BYTES_PER_PIXEL = 0.204 * _H200_BYTES_PER_S / _FULL_PIXELS  # norms, biases, sums, doubling


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU's data-sheet peaks.

    Attributes:
        name: As Modal calls it.
        bf16_flops: Dense bf16 FLOP/s.
        bandwidth_bytes_per_s: Of its memory.
        e4m3_flops: Dense 8-bit floating-point FLOP/s; None where there is none and linears stay bf16.
        attends_in_8bit: Whether cuDNN has 8-bit attention for it.
    """

    name: str
    bf16_flops: float
    bandwidth_bytes_per_s: float
    e4m3_flops: float | None = None
    attends_in_8bit: bool = False


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        card.name: card
        for card in (
            Card("L4", 121e12, 300e9, 242e12),
            Card("A10", 125e12, 600e9),
            Card("L40S", 362e12, 864e9, 733e12),
            Card("A100-80GB", 312e12, 2039e9),
            Card("H100", 989e12, 3350e9, 1979e12, attends_in_8bit=True),
            Card("H200", 989e12, 4800e9, 1979e12, attends_in_8bit=True),
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
    text_s = _TEXT_FLOPS / (card.bf16_flops * _LINEARS_BF16) + _passing_s(_TEXT_BYTES, card)
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
    eight_bit = card.e4m3_flops
    if eight_bit is not None and card.attends_in_8bit and attends_in_8bit:
        attention_s = attention / (eight_bit * _ATTENTION_8BIT)
    else:
        attention_s = attention / (card.bf16_flops * _ATTENTION_BF16)
    bf16_s = linears / (card.bf16_flops * _LINEARS_BF16)
    linears_s = bf16_s if eight_bit is None else linears / (eight_bit * _LINEARS_8BIT)
    return attention_s + linears_s + _passing_s(tokens * _DENOISE_BYTES_PER_TOKEN, card)


def _decode_s(pixels: int, card: Card) -> float:
    convolutions_s = pixels * _DECODE_FLOPS_PER_PIXEL / (card.bf16_flops * _CONVOLUTIONS)
    return convolutions_s + _passing_s(pixels * _DECODE_BYTES_PER_PIXEL, card)


def _passing_s(size_bytes: float, card: Card) -> float:
    return size_bytes / (card.bandwidth_bytes_per_s * _BANDWIDTH)
