"""Which fast paths the engine takes: one frozen value, chosen by what the device can do.

Every field is one lever with a plain fallback, so that a benchmark can switch each off alone and a
device that lacks an instruction never meets it. What each lever should gain, and what it was
measured to gain, is in docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from anime_studio.prepared import Packing

if TYPE_CHECKING:
    import torch

OLDEST_FAST_GPU: Final = (8, 0)
"""Compute capability from which the fast paths are taken: Ampere's."""


class Attention(StrEnum):
    """Kernel of the denoiser's self-attention."""

    SDPA = "sdpa"
    """Whatever `scaled_dot_product_attention` picks; on Hopper it picks cuDNN's kernel by itself."""
    FP8 = "fp8"
    """cuDNN's 8-bit kernel through `nvidia-cudnn-frontend`; Hopper and later."""
    INT8 = "int8"
    """SageAttention's Triton kernel, int8 queries and keys: written for Ampere and Ada, slower than cuDNN on Hopper."""


class TextWeights(StrEnum):
    """How the text encoder's linears are kept on the device."""

    PLAIN = "plain"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Acceleration:
    """The levers.

    Attributes:
        fused_denoiser: Walk the denoiser with our own blocks: one projection for query, key and value, and
            the text's keys and values computed once per clip. Without it the next three do nothing.
        attention: See `Attention`.
        fp8_linears: Multiply in e4m3 with a scale per token and per output row.
        compile_blocks: Compile the block once with `torch.compile` and run it for every layer.
        fused_norms: VAE: one Triton kernel for norm and SiLU, writing behind the two remembered frames.
        decode_chunk: VAE: latent frames decoded at once after the first.
        text_weights: See `TextWeights`.
        text_embedding_on_cpu: Keep UMT5's embedding table (1.05e9 numbers, of which a prompt reads 512 rows)
            in main memory.
        text_streamed: Keep the text encoder's layers in main memory and copy each to the device while the one before
            it computes (`engine.streaming`).
    """

    fused_denoiser: bool = False
    attention: Attention = Attention.SDPA
    fp8_linears: bool = False
    compile_blocks: bool = False
    fused_norms: bool = False
    decode_chunk: int = 1
    text_weights: TextWeights = TextWeights.PLAIN
    text_embedding_on_cpu: bool = False
    text_streamed: bool = False


PLAIN = Acceleration()
"""No lever: what runs on a CPU and on a GPU we know nothing of."""


def acceleration_for(device: torch.device) -> Acceleration:
    """Return the levers for *device*, by its compute capability.

    sm_89 (L4, L40S) and later multiply e4m3. 8-bit attention is the recipe's to allow (`engine.ready`).
    """
    if device.type != "cuda":
        return PLAIN
    import torch  # here, so that `doctor` can ask what a GPU would be served without loading it

    capability = torch.cuda.get_device_capability(device)
    return levers(capability)


def levers(capability: tuple[int, int]) -> Acceleration:
    """Return the levers for a CUDA compute capability, (major, minor)."""
    if capability < OLDEST_FAST_GPU:
        return PLAIN
    return Acceleration(
        fused_denoiser=True,
        fp8_linears=capability >= (8, 9),
        compile_blocks=True,
        fused_norms=True,
        decode_chunk=2,
        text_weights=TextWeights.INT8,
        text_embedding_on_cpu=True,
        text_streamed=True,
    )


def packing_for(device_type: str, acceleration: Acceleration) -> Packing:
    """Return the packing that a device of this type (`cpu`, `cuda`) loads under *acceleration*."""
    dtype = "bfloat16" if device_type == "cuda" else "float32"
    return Packing(text_weights=acceleration.text_weights.value, dtype=dtype)


def packing_asked(device: str, *, accelerate: bool, capability: tuple[int, int] | None) -> Packing:
    """Return the packing that settings ask for.

    Args:
        device: `cpu`, `cuda`, or `auto` for what the machine has. `cuda` need not be here: every GPU that takes
            the fast paths packs alike.
        accelerate: Whether the fast paths are asked for.
        capability: CUDA compute capability of the machine's GPU; None for none.
    """
    if device == "auto":
        device = "cpu" if capability is None else "cuda"
    if device == "cpu" or not accelerate:
        return packing_for(device, PLAIN)
    return packing_for(device, levers(capability or OLDEST_FAST_GPU))
