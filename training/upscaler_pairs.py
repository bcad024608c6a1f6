"""What the upscaler learns from: frames as it will be served them, and the same frames as the renderer draws them large.

The renderer draws each scene twice: small, and four times as large, which is the truth. The small clip goes through the
VAE and back, and every other one also through the denoiser, from a little noise, so that the network sees the faults of both:
never a clean small picture. `REDRAWN_SIGMA` is so little noise that the denoiser finds nearly the same clip again: the
truth stays the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.autoencoder import decode_clip, encode_clip, latent_statistics, load_vae
from training.checkpoint import load_generator
from training.clips import scenes_and_parameters, to_levels, to_pictures
from training.config import Scale
from training.machine import Machine
from training.text import embed, tokenize
from training.world.captions import write_caption
from training.world.render import FPS, render

REDRAWN_SIGMA = 0.15
"""Share of noise in latents that are denoised again. At the last sigma that is served, 0.375, snow and hair move."""
MOMENTS = 8
"""Pairs of neighbouring frames that are kept of each clip."""

Redraw = Callable[[torch.Tensor, list[str]], torch.Tensor]
"""(normalised latents, prompts) -> latents denoised again from a little noise."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of neighbouring frames.

    Attributes:
        small: As the VAE gives them: uint8 (pairs, 2 frames, 3, height, width).
        large: The truth, and the renderer's focus as a fourth channel: uint8 (pairs, 2, 4, scale * height, scale * width).
    """

    small: torch.Tensor
    large: torch.Tensor


class Source:
    """Draws clips on the machine's device; a seed always gives the same scenes.

    Args:
        machine: The run.
        scale: Sizes.
        state: Folder of the run, with the `vae`, and with the denoiser in `student` or `teacher`.
        times: How many times larger the truth is.
    """

    def __init__(self, machine: Machine, scale: Scale, state: Path, times: int) -> None:
        self._machine, self._scale, self._times = machine, scale, times
        self.vae = load_vae(state / "vae").to(machine.device).eval()
        folder = state / "student" if (state / "student").exists() else state / "teacher"
        self._redraw = _redraw_with(machine, folder)
        self._mean, self._std = latent_statistics(self.vae, machine.device)

    def clips(
        self, count: int, seed: int, *, held_out: bool, frames: int | None = None, redrawn: bool = True
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield (parameters, start in seconds, small frames) of *count* scenes, one clip at a time.

        Args:
            count: Clips.
            seed: Of scenes, captions, starts and noise.
            held_out: Whether the scenes are those that no training sees.
            frames: Frames of each; the scale's when None.
            redrawn: Whether every other clip goes through the denoiser too.
        """
        rng = random.Random(seed)
        scenes, parameters = scenes_and_parameters(count, rng, held_out=held_out)
        torch.manual_seed(seed)
        for index, scene in enumerate(scenes):
            own = parameters[index : index + 1].to(self._machine.device)
            start_s = torch.tensor([4 * rng.random()], device=self._machine.device)
            prompt = write_caption(scene, rng).text if redrawn and index % 2 else None
            yield own, start_s, self._served(own, start_s, prompt, frames or self._scale.frames)

    def pairs(self, count: int, seed: int, *, held_out: bool) -> Iterator[Pairs]:
        """Yield `MOMENTS` pairs of each of *count* clips, evenly over the clip, its first frames among them."""
        size = (self._times * self._scale.height, self._times * self._scale.width)
        for parameters, start_s, small in self.clips(count, seed, held_out=held_out):
            chosen = [round(i * (len(small) - 2) / (MOMENTS - 1)) for i in range(MOMENTS)]
            starts = torch.cat([start_s + index / FPS for index in chosen])
            large = render(parameters.expand(MOMENTS, -1), 2, *size, starts).transpose(1, 2)
            yield Pairs(torch.stack([small[index : index + 2] for index in chosen]), large)

    @torch.no_grad()
    def _served(
        self, parameters: torch.Tensor, start_s: torch.Tensor, prompt: str | None, frames: int
    ) -> torch.Tensor:
        """Return one clip's frames as the VAE gives them: uint8 (frames, 3, height, width)."""
        drawn = render(parameters, frames, self._scale.height, self._scale.width, start_s)[:, :3]
        with self._machine.autocast():
            latents = encode_clip(self.vae, to_levels(drawn, torch.float32))[0]
            if prompt is not None:
                again = self._redraw((latents - self._mean) / self._std, [prompt])
                latents = again * self._std + self._mean
            clip = decode_clip(self.vae, latents.to(self._machine.dtype))
        return to_pictures(clip)[0].transpose(0, 1)


def _redraw_with(machine: Machine, folder: Path) -> Redraw:
    tokenizer, encoder, denoiser = load_generator(folder, machine)

    def redraw(latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        embeddings: Any = embed(encoder, tokenize(tokenizer, prompts).to(machine.device).long())
        noisy = torch.lerp(latents, torch.randn_like(latents), REDRAWN_SIGMA)
        at = torch.full((len(latents),), 1000 * REDRAWN_SIGMA, device=latents.device)
        velocity: torch.Tensor = denoiser(noisy, at, embeddings, return_dict=False)[0]
        return noisy - REDRAWN_SIGMA * velocity.float()

    return redraw
