"""Recipes: a checkpoint and how it is sampled, each number with its source. A deployment serves one recipe.

A few-step student gives wrong pictures under any other sampler than the one it was trained for, so sampler, steps and
timesteps are part of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from anime_studio.core.decoders import Decoder
from anime_studio.core.demo_words import WORLD
from anime_studio.core.errors import ConfigurationError
from common.schemas import Resolution


class Sampler(StrEnum):
    """How noise becomes latents."""

    UNIPC = "unipc"
    """UniPC on the flow-matching sigmas, diffusers' scheduler for Wan."""
    DMD = "dmd"
    """For few-step students: predict x0, add noise for the next of their exact timesteps."""


@dataclass(frozen=True, slots=True)
class SparseAttention:
    """Video Sparse Attention (arXiv 2505.13389): a query attends to the tiles of keys that suit its own tile best.

    Attributes:
        tile: Latent frames, rows and columns of tokens in a tile.
        sparsity: Share of the tiles that a tile of queries leaves out, 0 to 1.
    """

    tile: tuple[int, int, int]
    sparsity: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checkpoint and the way it is sampled.

    Attributes:
        name: Stable name, in records and on the command line.
        summary: One line for people.
        repo_id: Model repository, or None when the checkpoint ships with the package.
        revision: Commit of the repository; "main" is resolved to a commit when the weights are fetched.
        license: Of the checkpoint.
        source: Where each number below comes from.
        sampler: See `Sampler`.
        num_inference_steps: Default steps; callers may ask for `min_inference_steps` to `max_inference_steps`.
        flow_shift: Timestep shift of the flow-matching schedule.
        timesteps: The student's exact timesteps, for `Sampler.DMD`.
        guidance_scale: Default guidance; None runs the denoiser once per step.
        accepts_guidance: Whether callers may ask for guidance.
        native_sizes: For each resolution offered, the (width, height) in pixels that the model generates.
        min_frames: Fewest frames of a clip, 4n + 1.
        max_frames: Most frames of a clip, 4n + 1.
        negative_prompt: Default negative prompt, used with guidance.
        composes_prompts: Whether `core.prompts` lengthens a prompt first.
        max_sequence_length: Prompts are padded or truncated to this many tokens.
        trained_with_8bit_attention: Whether 8-bit attention was in the training loop, so that a GPU may use it.
        fps: Frames per second.
        decoders: What may decode its latents: first the decoder that its checkpoint was published with.
        sparse: The sparse attention that it was trained with, and whose weights its checkpoint has; None for dense.
        checkpoint_of: The recipe whose checkpoint it samples; None for its own.
        world: All that it can show, in one line, when it was trained on a small world; None when it knows any words.
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
    decoders: tuple[Decoder, ...] = (Decoder.FULL,)
    world: str | None = None
    checkpoint_of: str | None = None
    sparse: SparseAttention | None = None

    def with_upscaler(self) -> Self:
        """Return the recipe as a deployment offers it whose checkpoint has an upscaler: with 1080p, drawn at 480p."""
        larger = {
            resolution: self.native_sizes[resolution.native]
            for resolution in Resolution
            if resolution.native in self.native_sizes
        }
        return replace(self, native_sizes=MappingProxyType({**self.native_sizes, **larger}))

    @property
    def checkpoint_name(self) -> str:
        """Name of the folder of its checkpoints, within the folder of all."""
        return self.checkpoint_of or self.name

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that it asks for on any device, as a record names them: `sparse_attention=0.8`."""
        return () if self.sparse is None else (f"sparse_attention={self.sparse.sparsity:g}",)


_ANY_DECODER = (Decoder.FULL, Decoder.LIGHT, Decoder.TINY)
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
        "sampling as in training and validation: FastVideo 2f3d407, pipelines/stages/denoising.py (timesteps 1000, 757, "
        "522; x0 prediction and re-noising), flow_shift 8; SageAttention2++ in the training loop. The example of the same "
        "commit, fp8_wan2_1_1_3b.py, samples otherwise: see fastwan-3step-unipc. It decodes with the checkpoint's VAE, "
        "or with TAEHV where it is asked to"
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
    decoders=_ANY_DECODER,
)

FASTWAN_3STEP_UNIPC = replace(
    FASTWAN_3STEP,
    name="fastwan-3step-unipc",
    summary="The same weights as fastwan-3step, sampled as FastVideo's example does: to compare the two on real weights",
    checkpoint_of=FASTWAN_3STEP.name,
    source=(
        "FastVideo 2f3d407, examples/inference/optimizations/fp8_wan2_1_1_3b.py through its own registry: UniPC at "
        "flow_shift 3, that is timesteps 999, 857, 600; all else as fastwan-3step"
    ),
    sampler=Sampler.UNIPC,
    timesteps=(),
    flow_shift=3.0,
)

FASTWAN_VSA_3STEP = replace(
    FASTWAN_3STEP,
    name="fastwan-vsa-3step",
    summary="Wan 2.1 1.3B distilled to 3 steps with sparse attention; the fastest, its pictures not yet compared",
    repo_id="FastVideo/FastWan2.1-T2V-1.3B-Diffusers",
    source=(
        "model card of FastVideo/FastWan2.1-T2V-1.3B-Diffusers (3 steps, Apache-2.0, DMD and VSA in one training); "
        "FastVideo 2f3d407: scripts/inference/inference_wan_VSA_DMD_1_3B.yaml (832x480, 81 frames, sparsity 0.8, "
        "timesteps 1000, 757, 522), configs/pipelines/wan.py FastWan2_1_T2V_480P_Config (flow_shift 8), "
        "attention/backends/video_sparse_attn.py (tiles of 4x4x4 tokens). docs/distillation/dmd.md says that it was "
        "trained at 832x448, 61 frames, and pipelines/basic/wan/presets.py defaults to that; the script of its "
        "training and the one above say 832x480, 81 frames. We generate 832x480, unscaled, from 61 frames to 81"
    ),
    trained_with_8bit_attention=False,
    min_frames=61,
    sparse=SparseAttention(tile=(4, 4, 4), sparsity=0.8),
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
    decoders=_ANY_DECODER,
)

DEMO = Recipe(
    name="demo",
    summary="A tiny checkpoint of our own that ships with the package; generates clips on a laptop without a GPU",
    repo_id=None,
    revision="tiny-wan-5",
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
    world=WORLD,
)

TINY_RANDOM = Recipe(
    name="tiny-random",
    summary="Random weights, a few pixels: for tests only, generates noise",
    repo_id=None,
    revision="random-0",
    license="Apache-2.0",
    source="written by anime_studio.engine.loading.tiny_random; its sizes have no source",
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
    decoders=_ANY_DECODER,
)

_ALL = (FASTWAN_3STEP, FASTWAN_3STEP_UNIPC, FASTWAN_VSA_3STEP, WAN_50STEP, DEMO, TINY_RANDOM)
RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in _ALL})


def get_recipe(name: str) -> Recipe:
    """Return the recipe called *name*.

    Raises:
        ConfigurationError: There is none; the detail lists those there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise ConfigurationError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}") from None


def require_decoder(recipe: Recipe, decoder: Decoder) -> None:
    """Refuse a decoder that was not trained for the recipe's latents.

    Raises:
        ConfigurationError: It was not; the detail lists those that were.
    """
    if decoder not in recipe.decoders:
        raise ConfigurationError(
            f"decoder {decoder} was not trained for the latents of recipe {recipe.name}; "
            f"set ANIME_STUDIO_DECODER to one of: {', '.join(recipe.decoders)}"
        )
