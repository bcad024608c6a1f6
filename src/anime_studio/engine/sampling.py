"""Noise to latents: the recipe's sampler.

`unipc` drives diffusers' scheduler as `WanPipeline.__call__` does; a test compares the result with that pipeline. `dmd`
is the sampler of few-step students (FastVideo 2f3d407, `pipelines/stages/denoising.py`): at each of the timesteps
that the student was trained for, predict x0, then add fresh noise for the next timestep. Other timesteps give other
pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from anime_studio.core.recipes import Recipe, Sampler
from anime_studio.engine.denoiser.model import Denoiser

NUM_TRAIN_TIMESTEPS = 1000
"""Of every Wan 2.1 checkpoint and student (Wan2.1 `wan/configs/shared_config.py`)."""

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents, timestep) -> predicted velocity, guidance applied."""


def seeded_noise(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Generator]:
    """Return float32 noise of *shape* on the CPU and the generator it came from.

    The generator is the CPU's, so that a seed means the same on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32), generator


def sample(
    recipe: Recipe,
    num_inference_steps: int,
    scheduler_config: Mapping[str, Any],
    noise: torch.Tensor,
    velocity: Velocity,
    generator: torch.Generator,
) -> Iterator[torch.Tensor]:
    """Yield the latents after each step of the recipe's sampler; the last ones are the result.

    Args:
        recipe: Names sampler, flow shift and, for `dmd`, the timesteps.
        num_inference_steps: Steps to take; `dmd` takes those of the recipe.
        scheduler_config: The checkpoint's scheduler settings, for `unipc`, except for the shift.
        noise: float32, on the device.
        velocity: See `Velocity`.
        generator: Gives the noise that `dmd` adds.
    """
    if recipe.sampler is Sampler.DMD:
        return dmd(recipe, noise, velocity, generator)
    return unipc(recipe, num_inference_steps, scheduler_config, noise, velocity)


def unipc(
    recipe: Recipe,
    num_inference_steps: int,
    scheduler_config: Mapping[str, Any],
    latents: torch.Tensor,
    velocity: Velocity,
) -> Iterator[torch.Tensor]:
    """Yield the latents after each step of diffusers' UniPC scheduler on flow-matching sigmas."""
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    given = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": recipe.flow_shift}
    scheduler = UniPCMultistepScheduler.from_config(dict(scheduler_config), **given)
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    scheduler.set_begin_index(0)  # saves a device-to-host copy at each step
    for timestep in scheduler.timesteps:
        latents = scheduler.step(velocity(latents, timestep), timestep, latents, return_dict=False)[0]
        yield latents


def dmd(
    recipe: Recipe, latents: torch.Tensor, velocity: Velocity, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield the latents after each of the recipe's timesteps."""
    sigmas = [nearest_sigma(timestep, recipe.flow_shift) for timestep in recipe.timesteps]
    for timestep, sigma, next_sigma in zip(recipe.timesteps, sigmas, [*sigmas[1:], None], strict=True):
        predicted = velocity(latents, torch.tensor(timestep, device=latents.device))
        x0 = latents.double() - sigma * predicted.double()
        if next_sigma is not None:
            fresh = torch.randn(latents.shape, generator=generator, dtype=torch.float32).to(latents.device)
            x0 = (1 - next_sigma) * x0 + next_sigma * fresh.double()
        latents = x0.float()
        yield latents


def nearest_sigma(timestep: int, flow_shift: float) -> float:
    """Return the schedule's sigma whose timestep is nearest to *timestep*.

    The schedule has 1,000 entries, sigma(s) = shift s / (1 + (shift - 1) s) for s = 1, 0.999, …, 0.001,
    and the timestep of an entry is 1000 sigma (diffusers' flow-match schedulers; FastVideo `models/utils.py`).
    """
    s = torch.arange(NUM_TRAIN_TIMESTEPS, 0, -1, dtype=torch.float64) / NUM_TRAIN_TIMESTEPS
    sigmas = flow_shift * s / (1 + (flow_shift - 1) * s)
    return float(sigmas[(sigmas * NUM_TRAIN_TIMESTEPS - timestep).abs().argmin()])


def guided(
    denoiser: Denoiser, embeddings: torch.Tensor, negative: torch.Tensor | None, guidance_scale: float | None
) -> Velocity:
    """Return the denoiser as a velocity function, with classifier-free guidance when a scale is given.

    Args:
        denoiser: Predicts velocities.
        embeddings: (1, tokens, text_dim) of the prompt.
        negative: The same of the negative prompt; needed with guidance.
        guidance_scale: Scale, or None for one forward per step.
    """
    text = denoiser.condition(embeddings)
    negative_text = None if guidance_scale is None or negative is None else denoiser.condition(negative)

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        conditional = denoiser(latents, timestep, text)
        if guidance_scale is None or negative_text is None:
            return conditional
        unconditional = denoiser(latents, timestep, negative_text)
        return unconditional + guidance_scale * (conditional - unconditional)

    return velocity
