"""The steps the checkpoint is served with, and a sampler over them.

The scheduler that ships is diffusers' UniPC on flow sigmas, of first order and with its corrector off: that is
Euler's method on UniPC's sigmas, whose last step, unlike that of `FlowMatchEulerDiscreteScheduler`, is not spent near
zero. So the plain `WanPipeline` of the folder samples just as the student was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from training.config import FLOW_SHIFT, STUDENT_STEPS

MAX_STEPS = 50
"""Steps for which the corrector is listed as off."""

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents, timesteps (clips,)) -> predicted noise minus clip."""


def teacher_scheduler() -> Any:
    """Return the scheduler that ships with a checkpoint that is not distilled: UniPC of second order."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
    )


def served_scheduler() -> Any:
    """Return the scheduler that ships with the student."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT,
        solver_order=1, disable_corrector=list(range(MAX_STEPS)),
    )  # fmt: skip


def grid(steps: int = STUDENT_STEPS) -> tuple[list[float], list[int]]:
    """Return the sigmas (steps + 1, the last 0) and timesteps (steps) of the scheduler."""
    scheduler = served_scheduler()
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.tolist(), scheduler.timesteps.tolist()


def euler(
    velocity: Velocity, latents: torch.Tensor, over: tuple[list[float], list[int]], steps: Iterable[int]
) -> torch.Tensor:
    """Return *latents* after the named *steps* of the grid *over*, in float32."""
    sigmas, timesteps = over
    for i in steps:
        at = torch.full((len(latents),), float(timesteps[i]), device=latents.device)
        latents = latents + (sigmas[i + 1] - sigmas[i]) * velocity(latents, at).float()
    return latents


@torch.no_grad()
def sample(velocity: Velocity, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the latents of clips sampled from *noise* in so many steps."""
    return euler(velocity, noise, grid(steps), range(steps))


def guided(denoiser: Any, embeddings: torch.Tensor, empty: torch.Tensor, guidance: float) -> Velocity:
    """Return the denoiser as a velocity, with classifier-free guidance when *guidance* is not 1.

    Args:
        denoiser: `WanTransformer3DModel`.
        embeddings: (clips, TOKENS, width) of the prompts.
        empty: (1, TOKENS, width) of the empty prompt.
        guidance: Scale.
    """

    def velocity(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if guidance == 1:
            plain: torch.Tensor = denoiser(latents, timesteps, embeddings, return_dict=False)[0]
            return plain
        both = denoiser(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            torch.cat([embeddings, empty.expand_as(embeddings)]),
            return_dict=False,
        )[0].float()
        conditional, unconditional = both.chunk(2)
        mixed: torch.Tensor = unconditional + guidance * (conditional - unconditional)
        return mixed

    return velocity
