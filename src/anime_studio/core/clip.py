"""From a request to the clip it means: a `ClipSpec`, or a refusal.

Pure arithmetic. After the first frame, Wan's VAE folds four frames into one latent
frame, so a clip has 4n + 1 frames; Wan 2.1 was trained at 16 frames per second.

Source: diffusers 0.42.1, `WanPipeline.__call__` (`num_frames % vae_scale_factor_temporal == 1`);
Wan2.1 `wan/configs/shared_config.py` (`sample_fps = 16`).
"""

from __future__ import annotations

import math
import secrets

from anime_studio.core.decoders import Decoder
from anime_studio.core.errors import InvalidRequestError, UnsupportedByRecipeError
from anime_studio.core.prompts import canonical, compose
from anime_studio.core.recipes import Recipe
from common.schemas import SEED_MAX, ClipSpec, GenerateRequest, Resolution

FPS = 16
FRAMES_PER_LATENT = 4


def frames_for(duration_s: float, *, fps: int = FPS) -> int:
    """Return the smallest legal frame count that covers *duration_s*.

    Args:
        duration_s: Clip length in seconds; > 0.
        fps: Frames per second.

    Returns:
        A count of the form 4n + 1: 5 s at 16 fps needs 81.

    Raises:
        InvalidRequestError: *duration_s* is not positive.
    """
    if not duration_s > 0:
        raise InvalidRequestError(f"duration must be more than 0 s, got {duration_s:g}")
    frames_wanted = math.ceil(round(duration_s * fps, 6))
    return FRAMES_PER_LATENT * math.ceil((frames_wanted - 1) / FRAMES_PER_LATENT) + 1


def duration_bounds(recipe: Recipe) -> tuple[float, float]:
    """Return (above, longest) in seconds: *recipe* draws clips of more than `above` and at most `longest`."""
    above = max(0.0, (recipe.min_frames - FRAMES_PER_LATENT) / recipe.fps)
    return above, recipe.max_frames / recipe.fps


def new_seed() -> int:
    """Return a random seed, for a request that names none."""
    return secrets.randbelow(SEED_MAX + 1)


def plan(
    request: GenerateRequest,
    recipe: Recipe,
    *,
    model_revision: str,
    seed: int,
    decoder: Decoder = Decoder.FULL,
    compose_prompt: bool = True,
) -> ClipSpec:
    """Return what *request* means under *recipe*, or refuse it.

    Args:
        request: What the caller asked for.
        recipe: The deployment's recipe.
        model_revision: Revision of the checkpoint that renders it, as far as is known.
        seed: Used when the request names none.
        decoder: What decodes it, as far as is known.
        compose_prompt: Whether a short prompt is extended for the recipe.

    Raises:
        InvalidRequestError: Nothing in the prompt is visible.
        UnsupportedByRecipeError: The recipe cannot render it; the detail says what it can.
    """
    prompt = canonical(request.prompt)
    if not prompt:
        raise InvalidRequestError("prompt: it holds no visible character")
    native_width, native_height = native_size(request.resolution, recipe)
    width, height = request.resolution.size
    guidance_scale = _guidance(request, recipe)
    return ClipSpec(
        prompt=request.prompt,
        prompt_used=compose(prompt) if compose_prompt and recipe.composes_prompts else prompt,
        negative_prompt=_negative_prompt(request, recipe, guidance_scale),
        seed=seed if request.seed is None else request.seed,
        duration=request.duration,
        resolution=request.resolution,
        width=width,
        height=height,
        native_width=native_width,
        native_height=native_height,
        num_frames=_num_frames(request, recipe),
        fps=recipe.fps,
        num_inference_steps=_steps(request, recipe),
        guidance_scale=guidance_scale,
        recipe=recipe.name,
        model_revision=model_revision,
        decoder=decoder,
    )


def native_size(resolution: Resolution, recipe: Recipe) -> tuple[int, int]:
    """Return the (width, height) in pixels that the model draws for a clip of *resolution*.

    Raises:
        UnsupportedByRecipeError: *recipe* offers no such clip; the message names what it offers.
    """
    size = recipe.native_sizes.get(resolution)
    if size is None:
        offered = ", ".join(recipe.native_sizes)
        upscaler_would_help = resolution.native in recipe.native_sizes
        why = " without an upscaler" if upscaler_would_help else ""
        raise UnsupportedByRecipeError(
            f"resolution {resolution} is not drawn by recipe {recipe.name}{why}; it draws: {offered}"
        )
    return size


def _num_frames(request: GenerateRequest, recipe: Recipe) -> int:
    num_frames = frames_for(request.duration, fps=recipe.fps)
    if not recipe.min_frames <= num_frames <= recipe.max_frames:
        above, longest = duration_bounds(recipe)
        raise UnsupportedByRecipeError(
            f"duration {request.duration:g} s needs {num_frames} frames; recipe {recipe.name} draws "
            f"{recipe.min_frames} to {recipe.max_frames}: ask for more than {above:g} s and at most {longest:g} s"
        )
    return num_frames


def _steps(request: GenerateRequest, recipe: Recipe) -> int:
    steps = request.num_inference_steps
    if steps is None:
        return recipe.num_inference_steps
    if not recipe.min_inference_steps <= steps <= recipe.max_inference_steps:
        allowed = (
            f"exactly {recipe.num_inference_steps}"
            if recipe.min_inference_steps == recipe.max_inference_steps
            else f"{recipe.min_inference_steps} to {recipe.max_inference_steps}"
        )
        raise UnsupportedByRecipeError(
            f"num_inference_steps {steps} is not possible with recipe {recipe.name}: it takes {allowed}"
        )
    return steps


def _guidance(request: GenerateRequest, recipe: Recipe) -> float | None:
    asked = recipe.guidance_scale if request.guidance_scale is None else request.guidance_scale
    if asked is None or asked == 1:
        return None
    if not recipe.accepts_guidance:
        raise UnsupportedByRecipeError(
            f"guidance_scale {asked:g} is not possible with recipe {recipe.name}: it was distilled to run "
            "without guidance; leave it out"
        )
    return asked


def _negative_prompt(request: GenerateRequest, recipe: Recipe, guidance_scale: float | None) -> str | None:
    if guidance_scale is not None:
        return (
            recipe.negative_prompt if request.negative_prompt is None else canonical(request.negative_prompt)
        )
    if request.negative_prompt:
        raise UnsupportedByRecipeError(
            f"negative_prompt has no effect without guidance, and recipe {recipe.name} runs without it; leave it out"
        )
    return None
