"""What a clip should cost on a card nobody has measured: an explicit, small model.

A stage takes `flops / (peak * sustained) + bytes / (bandwidth * reached)`. FLOPs follow from the
shapes of Wan 2.1 1.3B; the sustained fractions and the bytes are fitted to what we measured on one
H200 and then carried to other cards by their data-sheet peaks. Every result is a projection and is
labelled so. An L4 is held back by its 72 W, which this model does not know: read its figures as
plus or minus a third.

Sources: Wan2.1 `wan/configs/wan_t2v_1_3B.py` (30 layers, dim 1536, ffn 8960, patch 1x2x2, VAE stride
4x8x8); NVIDIA data sheets of each card (dense rates without sparsity); measurements: one H200, torch
2.11+cu130, diffusers 0.42.1, random weights at full shape, 2026-11-23.
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
_DECODE_FLOPS_PER_PIXEL = 275e12 / (81 * 480 * 832)  # decoder's convolutions at full shape, by count


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU's data-sheet peaks: dense bf16 FLOP/s and memory bytes/s."""

    name: str
    bf16_flops: float
    bandwidth_bytes_per_s: float


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        card.name: card
        for card in (
            Card("L4", 121e12, 300e9),
            Card("A10", 125e12, 600e9),
            Card("L40S", 362e12, 864e9),
            Card("A100-80GB", 312e12, 2039e9),
            Card("H100", 989e12, 3350e9),
            Card("H200", 989e12, 4800e9),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Software:
    """How well the software uses a card, fitted on the H200.

    Attributes:
        attention: Share of the bf16 peak that attention sustains.
        matmul: Share that linears and convolutions sustain.
        bandwidth: Share of the memory bandwidth that element-wise passes reach.
        denoise_bytes_per_token: Element-wise traffic of one forward, per token.
        decode_bytes_per_pixel: Element-wise traffic of the VAE decode, per pixel of each frame.
    """

    name: str
    attention: float
    matmul: float
    bandwidth: float
    denoise_bytes_per_token: float
    decode_bytes_per_pixel: float


PLAIN_DIFFUSERS = Software(
    # Measured: attention by flash SDPA 18.5 ms a layer = 356 TFLOP/s, feed-forward 781 TFLOP/s, copies 4.3 of
    # 4.8 TB/s. One forward took 620 ms (compute accounts for 660 ms at those rates with nothing left over, so its
    # element-wise traffic is not visible), a decode 1,830 ms of which convolutions at 486 TFLOP/s explain 566 ms.
    name="plain diffusers",
    attention=0.36,
    matmul=0.49,
    bandwidth=0.90,
    denoise_bytes_per_token=0.0,
    decode_bytes_per_pixel=(1.830 - 275e12 / (989e12 * 0.49)) * 4.8e12 * 0.90 / (81 * 480 * 832),
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
    software: Software = PLAIN_DIFFUSERS,
    spec: ClipSpec | None = None,
    scaledown_window_s: float = 0.0,
    cold_start_s: float = 0.0,
    rates: RateTable = MODAL_RATES,
) -> Projection:
    """Return what a clip of *recipe* should take and cost on *machine*.

    Args:
        recipe: A recipe of the 1.3B model.
        machine: GPU type, CPU cores and memory.
        software: The fitted shares.
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
    text_s = _TEXT_FLOPS / (card.bf16_flops * software.matmul)
    denoise_s = forwards * _forward_s(tokens, card, software)
    decode_s = _decode_s(frames * width * height, card, software)
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


def _forward_s(tokens: int, card: Card, software: Software) -> float:
    attention, linears = forward_flops(tokens)
    return (
        attention / (card.bf16_flops * software.attention)
        + linears / (card.bf16_flops * software.matmul)
        + tokens * software.denoise_bytes_per_token / (card.bandwidth_bytes_per_s * software.bandwidth)
    )


def _decode_s(pixels: int, card: Card, software: Software) -> float:
    return pixels * (
        _DECODE_FLOPS_PER_PIXEL / (card.bf16_flops * software.matmul)
        + software.decode_bytes_per_pixel / (card.bandwidth_bytes_per_s * software.bandwidth)
    )
