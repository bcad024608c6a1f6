"""What a clip should cost on a card that nobody has measured: the seconds of one H200, times two ratios a card.

Matrix products are scaled by the tensor cores' peak, elementwise kernels by the memory's bandwidth. The text stage
is taken as measured, because copying the text encoder over PCIe bounds it, and it takes a tenth of a second. Every
result is a projection and is labelled so. Read it as plus or minus a third: this model does not know that an L4 is
limited to 72 W, nor that a card without e4m3 multiplies its linears in bf16, nor another card's attention kernel.

Source of the seconds: one H200, 480x832, 81 frames, commit 75ea2ad, `benchmarks/results/engine_h200.json`; their
parts are the kernels' sums in docs/performance.md. The smaller decoders were measured on an H100 and are carried to the
H200 by the same two ratios: `benchmarks/results/decoders_h100.json`. Source of the peaks: NVIDIA's data sheet of each card.

x264 runs on the CPU beside decoder and upscaler, so the longer of the two counts. Its seconds are those of two cores at
480p, scaled by pixels; a machine with more cores is no slower. Not counted: storing the clip, and converting its colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import BudgetExceededError, ConfigurationError
from anime_studio.core.pricing import Machine
from anime_studio.core.recipes import Recipe
from common.schemas import ClipSpec, Resolution

_TEXT_S = 0.091
_ATTENTION_S = {True: 0.247, False: 0.354}  # of one forward: trained with 8-bit attention, or not
_SPARSE_S = 0.124  # of one forward at sparsity 0.8: 30 layers of 3.92 + 0.22 ms, clips_h100.json
_LINEARS_S = 0.058
_DENOISE_ELEMENTWISE_S = 0.062  # the rest of the 0.367 s of a forward with 8-bit attention
_H100_TO_H200 = 3350 / 4800  # of elementwise seconds
_DECODE_S: Mapping[Decoder, tuple[float, float]] = MappingProxyType(
    {
        Decoder.FULL: (0.477, 0.120),  # convolutions, and the rest of 0.597 s
        Decoder.LIGHT: (0.073, 0.057 * _H100_TO_H200),  # of 0.130 s on an H100
        Decoder.TINY: (0.022, 0.014 * _H100_TO_H200),  # of 0.036 s on an H100
    }
)
_UPSCALE_S = (0.110, 0.044 * _H100_TO_H200)
"""Convolutions, and the 148 GB that 18 layers write and read, of the 0.154 s of realesr-animevideov3 on an H100:
`benchmarks/results/upscaling_h100.json`."""
_ENCODE_S = 0.308
"""x264 with the setting in use, on two cores of the H100's machine: `benchmarks/results/encoding_16cores.json`."""
_FRAMES, _LATENT_FRAMES, _PIXELS = 81, 21, 832 * 480  # the shape that was measured


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU's data-sheet peaks: its name as Modal has it, dense bf16 FLOP/s, bytes/s of its memory."""

    name: str
    tensor_flops: float
    bandwidth_bytes_per_s: float


_H200 = Card("H200", 989e12, 4800e9)
_OTHERS = (
    Card("L4", 121e12, 300e9),
    Card("A10", 125e12, 600e9),
    Card("L40S", 362e12, 864e9),
    Card("A100-40GB", 312e12, 1555e9),
    Card("A100-80GB", 312e12, 2039e9),
    Card("H100", 989e12, 3350e9),
    Card("B200", 2250e12, 8000e9),
)
CARDS: Mapping[str, Card] = MappingProxyType({card.name: card for card in (*_OTHERS, _H200)})


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected seconds and dollars of one clip on one card; nothing in it was measured there.

    Encoding runs beside decoding and upscaling: `total_s` counts the longer of the two.
    """

    card: str
    recipe: str
    decoder: Decoder
    text_s: float
    denoise_s: float
    decode_s: float
    upscale_s: float
    encode_s: float
    total_s: float
    usd: float
    idle_tail_usd: float
    cold_start_usd: float

    @property
    def clips_per_hour(self) -> float:
        """Clips of an hour in which the card does nothing else."""
        return 3600 / self.total_s


def project(
    recipe: Recipe,
    machine: Machine,
    *,
    decoder: Decoder = Decoder.FULL,
    spec: ClipSpec | None = None,
    resolution: Resolution = Resolution.P480,
    scaledown_window_s: float = 0.0,
    cold_start_s: float = 0.0,
) -> Projection:
    """Return what a clip of *recipe* should take and cost on *machine*.

    Args:
        recipe: A recipe of the 1.3B model.
        machine: GPU type, CPU cores and memory.
        decoder: What decodes its latents.
        spec: A particular clip; absent means the recipe's longest with its own steps, of *resolution*.
        resolution: 1080p takes an upscaler's seconds, and longer to encode.
        scaledown_window_s: Idle seconds billed after a lone clip, shown apart.
        cold_start_s: Billed seconds before the first clip, shown apart.

    Raises:
        ConfigurationError: The card is not in `CARDS` or has no price.
    """
    card = CARDS.get(machine.gpu_type)
    if card is None:
        raise ConfigurationError(f"no data sheet for GPU {machine.gpu!r}; known: {', '.join(CARDS)}")
    width, height = next(iter(recipe.native_sizes.values()))
    frames = recipe.max_frames if spec is None else spec.num_frames
    sampled = recipe if spec is None else spec
    forwards = sampled.num_inference_steps * (1 if sampled.guidance_scale is None else 2)
    size = width * height / _PIXELS
    tokens = (1 + (frames - 1) // 4) / _LATENT_FRAMES * size
    attention_s = _ATTENTION_S[recipe.trained_with_8bit_attention] if recipe.sparse is None else _SPARSE_S
    attention_s *= tokens**2
    denoise_s = forwards * _seconds(card, attention_s + _LINEARS_S * tokens, _DENOISE_ELEMENTWISE_S * tokens)
    pixels = frames / _FRAMES * size
    decode_s = pixels * _seconds(card, *_DECODE_S[decoder])
    shown = resolution if spec is None else spec.resolution
    upscale_s = 0.0 if shown.native is shown else pixels * _seconds(card, *_UPSCALE_S)
    encode_s = _ENCODE_S * frames / _FRAMES * math.prod(shown.size) / _PIXELS
    total_s = _TEXT_S + denoise_s + max(decode_s + upscale_s, encode_s)
    usd_per_s = machine.usd_per_s()
    return Projection(
        card=card.name,
        recipe=recipe.name,
        decoder=decoder,
        text_s=_TEXT_S,
        denoise_s=denoise_s,
        decode_s=decode_s,
        upscale_s=upscale_s,
        encode_s=encode_s,
        total_s=total_s,
        usd=total_s * usd_per_s,
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
    projected = project(recipe, machine, decoder=Decoder(spec.decoder), spec=spec)
    if projected.usd > budget_usd:
        raise BudgetExceededError(
            f"the clip is projected to cost ${projected.usd:.4f} on {machine.gpu} ({projected.total_s:.0f} s), over the "
            f"budget of ${budget_usd:.4f} per clip; ask for fewer steps or a shorter clip, or raise the budget"
        )


def _seconds(card: Card, matrices_s: float, elementwise_s: float) -> float:
    """Carry seconds of the H200 to *card*."""
    return (
        matrices_s * _H200.tensor_flops / card.tensor_flops
        + elementwise_s * _H200.bandwidth_bytes_per_s / card.bandwidth_bytes_per_s
    )
