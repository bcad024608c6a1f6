"""Noise to latents: the denoise loop and the recipe's sampler.

`unipc` and `euler` are diffusers' schedulers driven as `WanPipeline.__call__` drives them; a test
pins this loop to that pipeline. `dmd` is the sampler of few-step students (FastVideo 2f3d407,
`pipelines/stages/denoising.py`): at each of its exact timesteps predict x0, then add fresh noise
for the next one. It is bound to those timesteps; any other schedule draws something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch

from anime_studio.core.recipes import Recipe, Sampler
from anime_studio.engine.denoiser import Denoiser

NUM_TRAIN_TIMESTEPS = 1000
"""Of every Wan 2.1 checkpoint and student (Wan2.1 `wan/configs/shared_config.py`)."""

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents, timestep) -> predicted velocity, guidance applied."""


class Steps(Protocol):
    """A sampler: yields the latents after each step."""

    def __call__(
        self, noise: torch.Tensor, velocity: Velocity, generator: torch.Generator
    ) -> Iterator[torch.Tensor]:
        """Yield once per step; the last one is the result. *generator* gives what fresh noise is needed."""
        ...


def seeded_noise(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Generator]:
    """Return float32 noise of *shape* on the CPU and the generator it came from.

    Always from the CPU's generator, so that a seed means the same on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32), generator


def sampler_for(recipe: Recipe, num_inference_steps: int, scheduler_config: Mapping[str, Any]) -> Steps:
    """Return the recipe's sampler for a number of steps.

    Args:
        recipe: Names sampler, flow shift and, for `dmd`, the timesteps.
        num_inference_steps: Steps to take; fixed for `dmd`.
        scheduler_config: The checkpoint's scheduler settings, used by `unipc` with the recipe's shift.
    """
    if recipe.sampler is Sampler.DMD:
        return _FewStep(recipe.timesteps, recipe.flow_shift)
    return _Scheduled(recipe, num_inference_steps, scheduler_config)


class _Scheduled:
    def __init__(self, recipe: Recipe, num_inference_steps: int, config: Mapping[str, Any]) -> None:
        self._recipe, self._num_inference_steps, self._config = recipe, num_inference_steps, config

    def __call__(
        self,
        noise: torch.Tensor,
        velocity: Velocity,
        generator: torch.Generator,  # noqa: ARG002 (these samplers add no noise)
    ) -> Iterator[torch.Tensor]:
        scheduler = self._scheduler()
        scheduler.set_timesteps(self._num_inference_steps, device=noise.device)
        scheduler.set_begin_index(0)  # spares a device-to-host copy at each step
        latents = noise
        for timestep in scheduler.timesteps:
            latents = scheduler.step(velocity(latents, timestep), timestep, latents, return_dict=False)[0]
            yield latents

    def _scheduler(self) -> Any:
        if self._recipe.sampler is Sampler.EULER:
            from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
                FlowMatchEulerDiscreteScheduler,
            )

            return FlowMatchEulerDiscreteScheduler(shift=self._recipe.flow_shift)
        from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

        return UniPCMultistepScheduler.from_config(
            dict(self._config),
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=self._recipe.flow_shift,
        )


class _FewStep:
    def __init__(self, timesteps: tuple[int, ...], flow_shift: float) -> None:
        self._timesteps = timesteps
        self._sigmas = [nearest_sigma(timestep, flow_shift) for timestep in timesteps]

    def __call__(
        self, noise: torch.Tensor, velocity: Velocity, generator: torch.Generator
    ) -> Iterator[torch.Tensor]:
        latents = noise
        for index, (timestep, sigma) in enumerate(zip(self._timesteps, self._sigmas, strict=True)):
            predicted = velocity(latents, torch.tensor(timestep, device=noise.device))
            x0 = latents.double() - sigma * predicted.double()
            if index + 1 < len(self._sigmas):
                fresh = torch.randn(noise.shape, generator=generator, dtype=torch.float32).to(noise.device)
                next_sigma = self._sigmas[index + 1]
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
