"""Which fast paths the engine takes: one frozen value of options, chosen by what the device can do.

Every option has a plain fallback, so that a benchmark can switch each one off alone and a device never meets an
instruction that it lacks. docs/performance.md has what each option was measured to gain. Importing this module loads no
torch, so that `doctor` can ask at once what a GPU would be served.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final

from anime_studio.checkpoints.manifest import Packing

OLDEST_FAST_GPU: Final = (8, 0)
"""Compute capability from which the fast paths are taken: Ampere's."""


class Attention(StrEnum):
    """Kernel of the denoiser's self-attention."""

    SDPA = "sdpa"
    """What `scaled_dot_product_attention` picks; on Hopper it picks cuDNN's kernel."""
    INT8 = "int8"
    """Our own Triton kernels: int8 queries and keys (`engine.denoiser.int8_attention`)."""


class TextWeights(StrEnum):
    """How the text encoder's linear layers are stored."""

    PLAIN = "plain"
    """In the dtype of all other weights."""
    INT8 = "int8"
    """In int8, with a scale for each output row."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """The options.

    Attributes:
        fused_denoiser: Run the denoiser with our own blocks: one projection for query, key and value, and
            the text's keys and values computed once per clip. Without it the next three do nothing.
        attention: See `Attention`.
        fp8_linears: Multiply in e4m3 with a scale per token and per output row.
        compile_blocks: Compile the block once with `torch.compile` and run it for every layer.
        fused_norms: VAE: one Triton kernel for norm, SiLU and the cache of two frames.
        decode_chunk: VAE: latent frames decoded at once after the first.
        compile_decoder: Tiny decoder: compile its walk with `torch.compile`, once for each size of clip.
        text_weights: See `TextWeights`.
        text_embedding_on_cpu: Leave UMT5's embedding table in host memory. It has 1.05e9 numbers, of which a
            prompt reads one row a token.
        text_streamed: Leave the text encoder's layers in host memory and copy each to the device while the one
            before it computes (`engine.memory.layer_streaming`).
    """

    fused_denoiser: bool = False
    attention: Attention = Attention.SDPA
    fp8_linears: bool = False
    compile_blocks: bool = False
    fused_norms: bool = False
    decode_chunk: int = 1
    compile_decoder: bool = False
    text_weights: TextWeights = TextWeights.PLAIN
    text_embedding_on_cpu: bool = False
    text_streamed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The paths that are on, as a record names them: `fused_denoiser`, `attention=int8`, `decode_chunk=2`."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return tuple(
            name if value is True else f"{name}={value}" for name, value, off in values if value != off
        )


PLAIN = Acceleration()
"""No fast path: for a CPU, and for a GPU we know nothing of."""


def options_for_capability(capability: tuple[int, int]) -> Acceleration:
    """Return the options for a CUDA compute capability, (major, minor), without 8-bit attention: recipes must allow it.

    sm_89 (L4, L40S) and later multiply e4m3.
    """
    if capability < OLDEST_FAST_GPU:
        return PLAIN
    return Acceleration(
        fused_denoiser=True,
        fp8_linears=capability >= (8, 9),
        compile_blocks=True,
        fused_norms=True,
        decode_chunk=2,
        compile_decoder=True,
        text_weights=TextWeights.INT8,
        text_embedding_on_cpu=True,
        text_streamed=True,
    )


def without_text(options: Acceleration) -> Acceleration:
    """Return *options* for an engine whose text is encoded elsewhere: with no option of the text encoder."""
    return replace(options, text_weights=TextWeights.PLAIN, text_embedding_on_cpu=False, text_streamed=False)


def packing_for(device_type: str, acceleration: Acceleration) -> Packing:
    """Return the packing that a device of this type (`cpu`, `cuda`) loads under *acceleration*."""
    dtype = "bfloat16" if device_type == "cuda" else "float32"
    return Packing(text_weights=acceleration.text_weights.value, dtype=dtype)


def packing_for_settings(device: str, *, accelerate: bool, capability: tuple[int, int] | None) -> Packing:
    """Return the packing that settings ask for.

    Args:
        device: `cpu`, `cuda`, or `auto` for what the machine has. With `cuda` the machine needs no GPU: all GPUs that
            take the fast paths use the same packing.
        accelerate: Whether the fast paths are asked for.
        capability: CUDA compute capability of the machine's GPU; None for none.
    """
    if device == "auto":
        device = "cpu" if capability is None else "cuda"
    if device == "cpu" or not accelerate:
        return packing_for(device, PLAIN)
    return packing_for(device, options_for_capability(capability or OLDEST_FAST_GPU))
