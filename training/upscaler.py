"""Stage `upscaler`: train the network that makes the VAE's frames four times larger.

The renderer draws each scene twice: small, and four times as large, which is the truth. The small clip goes through the
VAE and back, so that the network sees what it will be served: never a clean small picture.
Two neighbouring frames are learnt together, since what changes between them must change as in the truth.

A few minutes on two cores are enough, so the stage runs where it is started; with a GPU it is only quicker.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from anime_studio.checkpoints.pipeline_files import UPSCALER_WEIGHTS
from anime_studio.engine.upscaling import Upscaler, UpscalerConfig
from training.autoencoder import decode_clip, encode_clip, load_vae
from training.clips import scenes_and_parameters, to_levels
from training.config import Scale
from training.machine import Machine
from training.report import Curve, save_json
from training.world.render import FPS, render

CONFIG = UpscalerConfig(features=16, convolutions=4, scale=4)
SEED = 20
RATE = 2e-3
PATCH = 64
"""Small pixels on each side of what is learnt from at once: 32 faces of the world fit."""
BATCH = 8
CLIP_FRAMES = 33
"""Of a clip that is learnt from: the VAE's error is the same in all frames but the first, and the time is better spent on
more scenes."""
MOMENTS = 8
"""Pairs of neighbouring frames that are kept of each clip."""
EDGE_WEIGHT, FLICKER_WEIGHT = 1.0, 0.5

Pairs = tuple[torch.Tensor, torch.Tensor]
"""uint8 (moments, 2 frames, 3, height, width): the VAE's frames, and the truth at `scale` times the size."""


@torch.no_grad()
def pairs_of(vae: Any, parameters: torch.Tensor, start_s: float, scale: Scale, moments: int) -> Pairs:
    """Return pairs of neighbouring frames of one clip, through the VAE and as the renderer draws them large.

    Args:
        vae: The checkpoint's, with its encoder.
        parameters: float32 (1, parameters) of one scene.
        start_s: Where in its motion the clip begins.
        scale: Sizes.
        moments: How many pairs, evenly over the clip.
    """
    start = torch.tensor([start_s])
    frames_in_all = min(scale.frames, CLIP_FRAMES)
    small = render(parameters, frames_in_all, scale.height, scale.width, start)[:, :3]
    again = decode_clip(vae, encode_clip(vae, to_levels(small, torch.float32))[0])
    frames = ((again[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).transpose(0, 1)
    size = (CONFIG.scale * scale.height, CONFIG.scale * scale.width)
    chosen = [round(i * (frames_in_all - 2) / max(1, moments - 1)) for i in range(moments)]
    truth = [render(parameters, 2, *size, start + index / FPS)[0, :3].transpose(0, 1) for index in chosen]
    return torch.stack([frames[index : index + 2] for index in chosen]), torch.stack(truth)


def clips_of(
    vae: Any, count: int, seed: int, scale: Scale, moments: int, *, held_out: bool
) -> Iterator[Pairs]:
    """Yield `pairs_of` for *count* scenes; a seed always gives the same."""
    rng = random.Random(seed)
    _, parameters = scenes_and_parameters(count, rng, held_out=held_out)
    for each in parameters:
        yield pairs_of(vae, each[None], 4 * rng.random(), scale, moments)


def train_upscaler(
    machine: Machine,
    scale: Scale,
    state: Path,
    *,
    budget_s: float,
    max_steps: int | None = None,
    resume: bool = False,
) -> None:
    """Train the upscaler into `state/upscaler`.

    Args:
        machine: The run; the first process alone trains, on its CPU.
        scale: Sizes; `upscaler_clips` scenes are learnt from.
        state: Folder of the run, with the `vae`.
        budget_s: Seconds of training, without the drawing of the clips.
        max_steps: Steps at most, for tests.
        resume: Go on from `state/upscaler`.
    """
    torch.manual_seed(SEED)
    folder = state / "upscaler"
    upscaler = Upscaler(CONFIG).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if resume:
        upscaler.load_state_dict(load_file(folder / UPSCALER_WEIGHTS))
    vae = load_vae(state / "vae").eval()
    kept = []
    for pairs in clips_of(vae, scale.upscaler_clips, SEED, scale, MOMENTS, held_out=False):
        kept.append(pairs)
        if len(kept) % 8 == 0:
            machine.log(f"upscaler: {len(kept)} clips drawn")
    small, large = (torch.cat([pair[side] for pair in kept]) for side in (0, 1))
    machine.log(f"upscaler: {len(small)} pairs of frames")
    optimizer = torch.optim.Adam(upscaler.parameters(), RATE, betas=(0.9, 0.99))
    curve, generator = Curve("upscaler: loss"), torch.Generator().manual_seed(SEED)
    for step, fraction in machine.progress(budget_s, max_steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE
                * min(1.0, (step + 1) / 50)
                * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, fraction))))
            )
        loss = _loss(upscaler, *_patches(small, large, generator))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if step % 50 == 0:
            curve.add(step, loss.item())
        if step % 250 == 0:
            machine.log(f"upscaler {step} {fraction:.0%} loss {loss.item():.5f}")
    save_upscaler(upscaler, folder)
    curve.save(state / "curves" / "upscaler.png")


def save_upscaler(upscaler: Upscaler, folder: Path) -> None:
    """Write the part of a checkpoint: its configuration, and its weights in float16."""
    save_json(folder / "config.json", asdict(upscaler.config))
    weights = {name: tensor.detach().half().contiguous() for name, tensor in upscaler.state_dict().items()}
    save_file(weights, folder / UPSCALER_WEIGHTS, metadata={"format": "pt"})


def _patches(small: torch.Tensor, large: torch.Tensor, generator: torch.Generator) -> Pairs:
    height, width = small.shape[-2:]
    side, times = min(PATCH, height, width), CONFIG.scale
    inputs, truths = [], []
    for _ in range(BATCH):
        index, top, left = (
            int(torch.randint(limit, (1,), generator=generator))
            for limit in (len(small), height - side + 1, width - side + 1)
        )
        inputs.append(small[index, ..., top : top + side, left : left + side])
        rows, columns = (slice(times * first, times * (first + side)) for first in (top, left))
        truths.append(large[index, ..., rows, columns])
    return torch.stack(inputs).float() / 255, torch.stack(truths).float() / 255


def _loss(upscaler: Upscaler, small: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    given = upscaler(small.flatten(0, 1).contiguous(memory_format=torch.channels_last)).view_as(truth)
    error = given - truth
    charbonnier = (error.square() + 1e-6).sqrt().mean()
    edges = sum((error.diff(dim=axis).abs().mean() for axis in (-1, -2)), error.new_zeros(()))
    flicker = F.l1_loss(given.diff(dim=1), truth.diff(dim=1))
    loss: torch.Tensor = charbonnier + EDGE_WEIGHT * edges + FLICKER_WEIGHT * flicker
    return loss
