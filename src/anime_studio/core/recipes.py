"""How to sample: frozen, named, cited. A deployment serves one recipe.

A recipe binds a checkpoint to the sampler it was trained for. Few-step students are
wrong under any other sampler, so steps and timesteps are part of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from anime_studio.core.errors import ConfigurationError
from common.schemas import Resolution


class Sampler(StrEnum):
    """How noise becomes latents."""

    UNIPC = "unipc"
    """UniPC on the flow-matching sigmas, diffusers' scheduler for Wan."""
    EULER = "euler"
    """First-order flow matching."""
    DMD = "dmd"
    """Few-step students: predict x0, re-noise to the next of their exact timesteps."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checkpoint and the way it is sampled.

    Attributes:
        name: Stable name, in records and on the command line.
        summary: One line for people.
        repo_id: Model repository, or None when the checkpoint ships with the package.
        revision: Commit of the repository; "main" means `setup` resolves it and writes it in the manifest.
        source: Where each number below was read.
        sampler: See `Sampler`.
        num_inference_steps: Default steps.
        flow_shift: Timestep shift of the flow-matching schedule.
        timesteps: The student's exact timesteps, for `Sampler.DMD`.
        guidance_scale: Default guidance; None runs the denoiser once per step.
        accepts_guidance: Whether callers may ask for guidance.
        native_sizes: For each resolution offered, the (width, height) the model draws at.
        max_sequence_length: Text tokens, padded or truncated to this.
        trained_with_8bit_attention: Whether 8-bit attention was in the training loop, so that a GPU may use it.
    """

    name: str
    summary: str
    repo_id: str | None
    revision: str
    license: str
    source: str
    sampler: Sampler
    num_inference_steps: int
    min_inference_steps: int
    max_inference_steps: int
    flow_shift: float
    native_sizes: Mapping[Resolution, tuple[int, int]]
    min_frames: int
    max_frames: int
    timesteps: tuple[int, ...] = ()
    guidance_scale: float | None = None
    accepts_guidance: bool = False
    negative_prompt: str | None = None
    composes_prompts: bool = True
    max_sequence_length: int = 512
    trained_with_8bit_attention: bool = False
    fps: int = 16


_LANDSCAPE = MappingProxyType({Resolution.P480: (832, 480)})
_BOTH = MappingProxyType({Resolution.P480: (832, 480), Resolution.P480_PORTRAIT: (480, 832)})

FASTWAN_3STEP = Recipe(
    name="fastwan-3step",
    summary="Wan 2.1 1.3B distilled to 3 steps without guidance; the default on a GPU",
    repo_id="FastVideo/FastWan-QAD-FP8-1.3B",
    revision="main",
    license="Apache-2.0",
    source=(
        "model card of FastVideo/FastWan-QAD-FP8-1.3B (3 steps, no guidance, trained at 832x480, 81 frames, Apache-2.0); "
        "FastVideo 2f3d407: examples/inference/optimizations/fp8_wan2_1_1_3b.py, pipelines/stages/denoising.py "
        "(timesteps 1000, 757, 522; x0 prediction and re-noising), flow_shift 8; SageAttention2++ in the training loop"
    ),
    sampler=Sampler.DMD,
    num_inference_steps=3,
    min_inference_steps=3,
    max_inference_steps=3,
    timesteps=(1000, 757, 522),
    flow_shift=8.0,
    trained_with_8bit_attention=True,
    native_sizes=_LANDSCAPE,
    min_frames=81,
    max_frames=81,
)

WAN_50STEP = Recipe(
    name="wan-50step",
    summary="Wan 2.1 1.3B as published: 50 steps with guidance, about 26 times the cost of 3 steps",
    repo_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    revision="0fad780a534b6463e45facd96134c9f345acfa5b",
    license="Apache-2.0",
    source=(
        "Wan2.1 README (1.3B: 480x832 and 832x480, guidance 6, shift 8 to 12), wan/configs (50 steps, UniPC, 81 frames); "
        "negative prompt: the English version in the README, shortened to what an anime clip needs"
    ),
    sampler=Sampler.UNIPC,
    num_inference_steps=50,
    min_inference_steps=10,
    max_inference_steps=100,
    flow_shift=8.0,
    guidance_scale=6.0,
    accepts_guidance=True,
    negative_prompt="overexposed, static, blurry details, subtitles, worst quality, low quality, JPEG artifacts, "
    "extra fingers, poorly drawn hands, poorly drawn face, deformed, still picture",
    native_sizes=_BOTH,
    min_frames=17,
    max_frames=81,
)

DEMO = Recipe(
    name="demo",
    summary="A tiny checkpoint of our own that ships with the package; draws on a laptop without a GPU",
    repo_id=None,
    revision="tiny-wan-3",
    license="Apache-2.0",
    source="the model card beside the checkpoint, anime_studio/checkpoints/demo",
    sampler=Sampler.UNIPC,
    num_inference_steps=6,  # as distilled; the checkpoint's scheduler is of first order: Euler's method on UniPC's sigmas
    min_inference_steps=4,
    max_inference_steps=8,
    flow_shift=3.0,
    composes_prompts=False,  # trained on short captions; its text encoder holds 64 tokens
    native_sizes=MappingProxyType({Resolution.P480: (192, 112)}),
    min_frames=81,  # learned whole clips only: shorter ones open on a frame of inverted colours
    max_frames=81,
    max_sequence_length=64,
)

TINY_RANDOM = Recipe(
    name="tiny-random",
    summary="Random weights, a few pixels: for tests only, draws noise",
    repo_id=None,
    revision="random-0",
    license="Apache-2.0",
    source="built by anime_studio.engine.tiny; the shapes mean nothing",
    sampler=Sampler.UNIPC,
    num_inference_steps=3,
    min_inference_steps=1,
    max_inference_steps=100,
    flow_shift=3.0,
    accepts_guidance=True,
    negative_prompt="",
    native_sizes=MappingProxyType({Resolution.P480: (48, 32), Resolution.P480_PORTRAIT: (32, 48)}),
    min_frames=5,
    max_frames=81,
    max_sequence_length=32,
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (FASTWAN_3STEP, WAN_50STEP, DEMO, TINY_RANDOM)}
)


def get_recipe(name: str) -> Recipe:
    """Return the recipe called *name*.

    Raises:
        ConfigurationError: There is none; the detail lists those there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise ConfigurationError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}") from None
