"""Which fast paths the engine takes: one frozen value of options, chosen by what the device can do.

Every option has a plain fallback, so that a benchmark can switch each one off alone and a device never meets an
instruction that it lacks. docs/performance.md has what each option was measured to gain. Importing this module loads no
torch, so that `doctor` can ask at once what a GPU would be served.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
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
        compile_upscaler: Compile the upscaler with `torch.compile`, once for each size of clip.
    """

    fused_denoiser: bool = False
    attention: Attention = Attention.SDPA
    fp8_linears: bool = False
    compile_blocks: bool = False
    fused_norms: bool = False
    decode_chunk: int = 1
    compile_decoder: bool = False
    compile_upscaler: bool = False

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
        compile_upscaler=True,
    )


def packing_for(device_type: str) -> Packing:
    """Return the packing that a device of this type (`cpu`, `cuda`) loads."""
    return Packing("plain", "bfloat16" if device_type == "cuda" else "float32")


def packing_for_settings(device: str, *, has_gpu: bool) -> Packing:
    """Return the packing that settings ask for.

    Args:
        device: `cpu`, `cuda`, or `auto` for what the machine has. With `cuda` the machine needs no GPU.
        has_gpu: Whether the machine has one.
    """
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    return packing_for(device)
