"""Stage `vae`: train the autoencoder to reconstruct clips.

It sees whole clips of 81 frames from the start. The decoder depends on about 80 earlier frames, and one trained on 17
frames turns green after them. What a viewer looks at counts more: heads four times, bodies two and a half times. The
first frame counts more too, since no frame comes before it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from training.autoencoder import build_vae, channels_last, decode_clip, encode_clip, load_vae
from training.clips import Feeder, render_clips, scenes_and_parameters, to_levels, to_pictures
from training.config import Scale
from training.machine import Machine
from training.optimize import Learner, ramp
from training.report import Curve, save_sheet
from training.world.scene import WEATHERS

RATE = 1e-3
FOCUS_WEIGHT = 3.0
FIRST_FRAME_WEIGHT = 4.0
KL_WEIGHT = 1e-4
COMPILE_STEPS = 5


def train_vae(
    machine: Machine,
    scale: Scale,
    state: Path,
    *,
    budget_s: float,
    max_steps: int | None = None,
    resume: bool = False,
    decoder_only: bool = False,
) -> float:
    """Train the VAE into `state/vae` and return its PSNR on held-out clips, in dB.

    Args:
        machine: The run.
        scale: Sizes.
        state: Folder of the run.
        budget_s: Seconds of training, without compilation.
        max_steps: Steps at most, for tests.
        resume: Go on from `state/vae`.
        decoder_only: Leave the encoder as it is, so that latents already in use stay valid.
    """
    vae = (load_vae(state / "vae") if resume else build_vae(scale)).to(machine.device).train()
    if machine.on_gpu:
        channels_last(vae)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = [vae.decoder, vae.post_quant_conv] if decoder_only else [vae]
    learner = Learner(machine, trained, RATE, clip=0.5, average_over=200)
    step_loss = torch.compile(_loss, dynamic=False) if machine.on_gpu else _loss
    feeder, curve = Feeder(scale.vae_batch, 7 + machine.rank, machine.device), Curve("VAE: weighted loss")
    generator = torch.Generator(machine.device).manual_seed(machine.rank)
    for step, fraction in machine.progress(
        budget_s, max_steps, free_steps=COMPILE_STEPS if machine.on_gpu else 0
    ):
        clip, focus = render_clips(feeder.next(), scale.frames, scale.height, scale.width, generator)
        levels = to_levels(clip, machine.dtype)
        if machine.on_gpu:
            levels = levels.contiguous(memory_format=torch.channels_last_3d)
        with machine.autocast():
            loss, squared = step_loss(vae, levels, focus)
        torch.autograd.backward(loss)
        norm = learner.step(ramp(step, fraction, hold=0.2))
        if step < 10 or step % 50 == 0:
            curve.add(step, loss.item())
        if step % 250 == 0 or step in (5, 20, 100):
            psnr = -10 * math.log10(squared.item() / 4)
            machine.log(
                f"vae {step} {fraction:.0%} loss {loss.item():.4f} psnr {psnr:.2f} norm {norm.item():.2f}"
            )
    learner.use_average()
    reconstruction = measure_vae(machine, scale, vae.eval(), state)
    if machine.is_first:
        vae.to(memory_format=torch.contiguous_format).half().save_pretrained(state / "vae")
        curve.save(state / "curves" / "vae.png")
    machine.log(f"vae {reconstruction}")
    return reconstruction.psnr_db


def _loss(vae: Any, levels: torch.Tensor, focus: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_variance = encode_clip(vae, levels)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    error = decode_clip(vae, latents).float() - levels.float()
    weight = 1 + FOCUS_WEIGHT * focus
    weight = torch.cat([weight[:, :, :1] * FIRST_FRAME_WEIGHT, weight[:, :, 1:]], 2)
    weight = weight / weight.mean()
    edges = sum(_slope(error, weight, axis) for axis in (3, 4))
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    loss = (
        (weight * error.abs()).mean()
        + 4 * (weight * error.square()).mean()
        + 0.5 * edges
        + 0.25 * _slope(error, weight, 2)
    )
    return loss + KL_WEIGHT * kl, error.detach().square().mean()


def _slope(error: torch.Tensor, weight: torch.Tensor, axis: int) -> torch.Tensor:
    length = error.shape[axis] - 1
    return (weight.narrow(axis, 1, length) * error.diff(dim=axis).abs()).mean()


@dataclass(frozen=True)
class Reconstruction:
    """How near the VAE comes to held-out clips: means over clips of each whole clip's PSNR, in dB."""

    psnr_db: float
    by_weather_db: dict[str, float]


@torch.no_grad()
def measure_vae(machine: Machine, scale: Scale, vae: Any, state: Path) -> Reconstruction:
    """Measure PSNR on held-out clips, write the latents' statistics into the VAE's configuration, save a sheet."""
    scenes, parameters = scenes_and_parameters(
        scale.held_out_clips, random.Random(99 + machine.rank), held_out=True
    )
    ratios: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []
    rows: list[torch.Tensor] = []
    generator = torch.Generator(machine.device).manual_seed(machine.rank)
    for batch in torch.split(parameters.to(machine.device), scale.vae_batch):
        clip, _ = render_clips(batch, scale.frames, scale.height, scale.width, generator)
        levels = to_levels(clip, machine.dtype)
        with machine.autocast():
            mean, _ = encode_clip(vae, levels)
            again = decode_clip(vae, mean.to(machine.dtype)).float().clamp(-1, 1)
        ratios.append(-10 * torch.log10((again - levels.float()).square().mean((1, 2, 3, 4)) / 4))
        sums.append(torch.stack([mean.mean((0, 2, 3, 4)), mean.square().mean((0, 2, 3, 4))]))
        if len(rows) < 8:
            shown = [0, scale.frames // 4, scale.frames // 2, scale.frames - 1]
            rows.append(torch.cat([clip[0][:, shown], to_pictures(again[0])[:, shown]], 1).transpose(0, 1))
    both, psnr_db = torch.stack(sums).mean(0), torch.cat(ratios).double()
    weather = torch.tensor([WEATHERS.index(scene.weather) for scene in scenes], device=machine.device)
    shares = F.one_hot(weather, len(WEATHERS)).double()
    totals_db, clips = psnr_db @ shares, shares.sum(0)
    machine.average_([both, totals_db, clips])
    mean_z, std_z = both[0], (both[1] - both[0].square()).sqrt()
    vae.register_to_config(latents_mean=mean_z.tolist(), latents_std=std_z.tolist())
    if machine.is_first:
        save_sheet(state / "sheets" / "vae.png", rows)
    return Reconstruction(
        psnr_db=float(totals_db.sum() / clips.sum()),
        by_weather_db={
            name: round(float(total / count), 2)
            for name, total, count in zip(WEATHERS, totals_db, clips, strict=True)
            if count
        },
    )
