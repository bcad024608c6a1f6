"""Stage `upscaler`: train the network that makes the VAE's frames four times larger.

Two neighbouring frames are learnt together, since what changes between them must change as in the truth. What a viewer
looks at weighs more: the renderer says where heads and bodies are.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from anime_studio.checkpoints.pipeline_files import UPSCALER_WEIGHTS
from anime_studio.engine.upscaling import COLOURS, Upscaler, UpscalerConfig
from training.config import Scale
from training.machine import Machine
from training.report import Curve, save_json
from training.upscaler_pairs import MOMENTS, Pairs, Source

CONFIG = UpscalerConfig(features=24, convolutions=6, scale=4)
SEED = 20
RATE = 2e-3
PATCH = 64
"""Small pixels on each side of what is learnt from at once: 32 faces of the world fit."""
BATCH = 8
AVERAGE_OVER = 500
"""Steps over which the weights that ship are averaged, about."""
EDGE_WEIGHT, FLICKER_WEIGHT, FOCUS_WEIGHT = 1.0, 0.5, 2.0
FIRST_RESIDUAL = 0.1
"""Share of the last convolution's random weights that training begins with."""
SMALL_SLOPE = 0.02
"""Errors of slope below this count by their square, so that a small step costs least when all pixels of a cell share it.
By their size alone, one step at the edge of the cell costs the same, and a grid of squares stays in soft places."""
DRAWING_S = 90
"""Seconds for drawing; clips that are not drawn by then are left out."""


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
        machine: The run; the first process alone trains.
        scale: Sizes; `upscaler_clips` scenes are learnt from, if there is time.
        state: Folder of the run, with `vae`, and `student` or `teacher`.
        budget_s: Seconds of training, without the drawing of the clips.
        max_steps: Steps at most, for tests.
        resume: Go on from `state/upscaler`, with other clips.
    """
    torch.manual_seed(SEED)
    folder = state / "upscaler"
    upscaler = smooth_upscaler(CONFIG)
    if resume:
        upscaler.load_state_dict(load_file(folder / UPSCALER_WEIGHTS))
    upscaler.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pairs = _draw(machine, scale, state, seed=SEED + resume)
    weights = list(upscaler.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Adam(weights, RATE, betas=(0.9, 0.99))
    curve, generator = Curve("upscaler: loss"), torch.Generator().manual_seed(SEED)
    for step, fraction in machine.progress(budget_s, max_steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * _rate(step, fraction)
        loss = _loss(upscaler, _patches(pairs, generator))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        torch._foreach_lerp_(
            averages, [weight.detach() for weight in weights], 1 / min(step + 1, AVERAGE_OVER)
        )
        if step % 250 == 0:
            curve.add(step, loss.item())
            machine.log(f"upscaler {step} {fraction:.0%} loss {loss.item():.5f}")
    with torch.no_grad():
        for weight, average in zip(weights, averages, strict=True):
            weight.copy_(average)
    save_upscaler(upscaler, folder)
    curve.save(state / "curves" / "upscaler.png")


@torch.no_grad()
def smooth_upscaler(config: UpscalerConfig) -> Upscaler:
    """Return a network to train, of three features or more, that begins nearly as bilinear interpolation, without squares.

    Three of its features carry the picture unchanged to the last convolution, whose 3x3 pixels of them are all that
    bilinear interpolation needs.
    """
    upscaler = Upscaler(config)
    *inner, last = (layer for layer in upscaler.body if isinstance(layer, torch.nn.Conv2d))
    for layer in inner:
        layer.weight[:COLOURS] = 0
        layer.weight[range(COLOURS), range(COLOURS), 1, 1] = 1
        layer.bias[:COLOURS] = 0  # type: ignore[index]
    for activation in upscaler.body:
        if isinstance(activation, torch.nn.PReLU):
            activation.weight[:COLOURS] = 1
    last.weight.mul_(FIRST_RESIDUAL)
    last.bias.zero_()  # type: ignore[union-attr]
    last.weight[:, :COLOURS] = 0
    taps = _bilinear_taps(config.scale)
    for colour, outputs in enumerate(torch.split(last.weight, config.scale**2)):
        outputs[:, colour] = taps
    return upscaler


def _bilinear_taps(times: int) -> torch.Tensor:
    """Return how the 3x3 small pixels around a cell differ it from squares: (times * times, 3, 3)."""
    small = torch.zeros(9, 1, 5, 5)
    for index in range(9):
        small[index, 0, 1 + index // 3, 1 + index % 3] = 1
    smooth, squares = (
        F.interpolate(small, scale_factor=times, mode=mode) for mode in ("bilinear", "nearest")
    )
    middle = slice(2 * times, 3 * times)
    return (smooth - squares)[:, 0, middle, middle].reshape(3, 3, times**2).permute(2, 0, 1)


def save_upscaler(upscaler: Upscaler, folder: Path) -> None:
    """Write the part of a checkpoint: its configuration, and its weights in float16."""
    save_json(folder / "config.json", asdict(upscaler.config))
    weights = {
        name: tensor.detach().half().cpu().contiguous() for name, tensor in upscaler.state_dict().items()
    }
    save_file(weights, folder / UPSCALER_WEIGHTS, metadata={"format": "pt"})


def _draw(machine: Machine, scale: Scale, state: Path, *, seed: int) -> Pairs:
    """Return the pairs of all clips, written where they stay: twice their bytes would not fit beside the VAE's work."""
    begun, drawn, kept = time.monotonic(), 0, None
    for pairs in Source(machine, scale, state, CONFIG.scale).pairs(
        scale.upscaler_clips, seed, held_out=False
    ):
        room = scale.upscaler_clips * len(pairs.small)
        kept = kept or Pairs(*(part.new_empty(room, *part.shape[1:]) for part in (pairs.small, pairs.large)))
        for all_of_them, part in ((kept.small, pairs.small), (kept.large, pairs.large)):
            all_of_them[drawn * len(part) : (drawn + 1) * len(part)] = part
        drawn += 1
        if time.monotonic() - begun > DRAWING_S:
            break
    if kept is None:
        raise ValueError("no clip to learn from: upscaler_clips is 0")
    machine.log(
        f"upscaler: {drawn} clips of {scale.upscaler_clips} drawn in {time.monotonic() - begun:.0f} s"
    )
    return Pairs(kept.small[: drawn * MOMENTS], kept.large[: drawn * MOMENTS])


def _rate(step: int, fraction: float) -> float:
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, fraction))))


def _patches(pairs: Pairs, generator: torch.Generator) -> Pairs:
    height, width = pairs.small.shape[-2:]
    side, times = min(PATCH, height, width), CONFIG.scale
    small, large = [], []
    for _ in range(BATCH):
        index, top, left = (
            int(torch.randint(limit, (1,), generator=generator))
            for limit in (len(pairs.small), height - side + 1, width - side + 1)
        )
        small.append(pairs.small[index, ..., top : top + side, left : left + side])
        rows, columns = (slice(times * first, times * (first + side)) for first in (top, left))
        large.append(pairs.large[index, ..., rows, columns])
    return Pairs(torch.stack(small), torch.stack(large))


def _loss(upscaler: Upscaler, patches: Pairs) -> torch.Tensor:
    small, large = patches.small.float() / 255, patches.large.float() / 255
    truth, weight = large[:, :, :3], 1 + FOCUS_WEIGHT * large[:, :, 3:]
    weight = weight / weight.mean()
    given = upscaler(small.flatten(0, 1).contiguous(memory_format=torch.channels_last)).view_as(truth)
    error = given - truth
    charbonnier = (weight * (error.square() + 1e-6).sqrt()).mean()
    edges = _slope(error, weight, -1) + _slope(error, weight, -2)
    flicker = _slope(error, weight, 1)
    loss: torch.Tensor = charbonnier + EDGE_WEIGHT * edges + FLICKER_WEIGHT * flicker
    return loss


def _slope(error: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    """Return how much the error changes along *axis*, as `_loss` weighs it."""
    size = (error.diff(dim=axis).square() + SMALL_SLOPE**2).sqrt() - SMALL_SLOPE
    return (weight.narrow(axis, 1, error.shape[axis] - 1) * size).mean()
