"""From a checkpoint folder to an engine that has drawn: with the fast paths that suit the device, or without them."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
import torch

from anime_studio.core.errors import CheckpointError, OutOfMemoryError
from anime_studio.core.recipes import Recipe
from anime_studio.engine.acceleration import PLAIN, Acceleration, acceleration_for
from anime_studio.engine.attention import eight_bit_kernel
from anime_studio.engine.engine import Engine, device_named, load_engine
from anime_studio.telemetry import ENGINE_ACCELERATION_REFUSED

_log = structlog.get_logger()


def ready_engine(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "auto",
    accelerate: bool,
    cache_dir: Path | None = None,
    models_dir: Path | None = None,
) -> Engine:
    """Load the checkpoint in *folder*; on a GPU draw a throw-away clip of each size, so that no caller pays for it.

    A GPU that refuses a fast path (an older driver, a kernel that does not compile there) is served by the plain
    paths, and the log says why: slower clips are better than none.

    Args:
        recipe: How it is sampled.
        folder: A checkpoint in diffusers' layout, or one that `weights prepare` wrote.
        device: `cpu`, `cuda`, or `auto` for a GPU when there is one.
        accelerate: Whether to take the fast paths that suit device and recipe.
        cache_dir: Where prompt embeddings are kept between runs.
        models_dir: Where checkpoints are kept, for a prepared form of this one.

    Raises:
        CheckpointError, OutOfMemoryError, EngineError: See `load_engine`.
    """
    place = device_named(device)
    levers = levers_for(recipe, place) if accelerate else PLAIN
    load = partial(load_engine, recipe, folder, device=device, cache_dir=cache_dir, models_dir=models_dir)
    try:
        return _warm(load(acceleration=levers))
    except (CheckpointError, OutOfMemoryError):
        raise
    except Exception as error:  # Triton, cuDNN and inductor share no root of their refusals
        if levers == PLAIN:
            raise
        _log.warning(ENGINE_ACCELERATION_REFUSED, detail=f"{type(error).__name__}: {error}")
    gc.collect()  # the refused engine's weights
    torch.cuda.empty_cache()
    return _warm(load(acceleration=PLAIN))


def levers_for(recipe: Recipe, device: torch.device) -> Acceleration:
    """Return the fast paths that suit *device*, 8-bit attention among them if *recipe* was trained with it."""
    levers = acceleration_for(device)
    if recipe.trained_with_8bit_attention and levers.fused_denoiser:
        return replace(levers, attention=eight_bit_kernel(device) or levers.attention)
    return levers


def _warm(engine: Engine) -> Engine:
    if engine.components.device.type == "cuda":
        engine.warm_up()
    return engine
