"""Stage `denoiser`: encode rendered clips, train the text encoder to read captions, then train both to denoise.

Flow matching with logit-normal times under the served shift. The first part sees only the first five latent frames, in
larger batches, to learn scenes and colours cheaply; the rest sees whole clips. One caption in ten is empty, for the
guidance that distillation folds into the student.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from transformers import PreTrainedTokenizerFast

from training.autoencoder import channels_last, encode_clip, latent_statistics, load_vae
from training.checkpoint import load_generator
from training.clips import render_clips, scenes_and_parameters, to_levels
from training.config import FLOW_SHIFT, Scale
from training.machine import Machine
from training.optimize import Learner, ramp
from training.report import Curve
from training.text import Reader, build_text_encoder, captions_of, embed, save_text, tokenize, train_tokenizer

RATE, RESUMED_RATE = 1.2e-3, 9e-4
READING_WEIGHT = 0.05
FOCUS_WEIGHT = 2.5
FIRST_FRAME_WEIGHT = 2.0
EMPTY_CAPTIONS = 0.1
SHORT_FRAMES = 5
SHORT_FRACTION = 0.3
READING_FRACTION = 0.06
ENCODING_S = 60
"""Seconds for rendering and encoding; clips that are not encoded by then are left out."""


@dataclass(frozen=True)
class Dataset:
    """Encoded clips of one process and their captions, on its device.

    Attributes:
        latents: Normalised, in the heavy dtype: (clips, z, latent frames, height / 8, width / 8).
        focus: uint8 (clips, 1, latent frames, height / 8, width / 8).
        tokens: int16 (clips, captions, TOKENS).
        named: int8 (clips, captions, attributes).
    """

    latents: torch.Tensor
    focus: torch.Tensor
    tokens: torch.Tensor
    named: torch.Tensor

    def caption_batch(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and named attributes of one caption of each chosen clip, int64."""
        which = torch.randint(0, self.tokens.shape[1], (len(chosen),), device=chosen.device)
        return self.tokens[chosen, which].long(), self.named[chosen, which].long()


def train_denoiser(
    machine: Machine,
    scale: Scale,
    state: Path,
    *,
    budget_s: float,
    max_steps: int | None = None,
    resume: bool = False,
) -> None:
    """Train text encoder and denoiser into `state/teacher`, going on from what is there with *resume*."""
    torch.manual_seed(0)
    if resume:
        tokenizer, encoder, denoiser = load_generator(state / "teacher", machine)
        encoder, denoiser = encoder.train(), denoiser.train()
    else:
        tokenizer = train_tokenizer(corpus=scale.caption_corpus)
        encoder = build_text_encoder(scale, tokenizer).to(machine.device)
        denoiser = build_denoiser(scale).to(machine.device)
    machine.log(
        f"denoiser: {len(tokenizer)} tokens; encoding {scale.clips} clips on each of {machine.processes}"
    )
    data = encode_dataset(
        machine, scale, load_vae(state / "vae"), tokenizer, seed=(3000 if resume else 1000) + machine.rank
    )
    reader = Reader(scale.text["d_model"]).to(machine.device)
    torch.manual_seed(100 + machine.rank)
    # An encoder that reads already needs only a new reader: the earlier one was not saved.
    reading_s = budget_s * (0.02 if resume else READING_FRACTION)
    learning = [reader] if resume else [encoder, reader]
    _train_reading(machine, scale, data, encoder, reader, learning, budget_s=reading_s, max_steps=max_steps)
    empty = tokenize(tokenizer, [""]).to(machine.device).long()
    _train_denoising(
        machine,
        scale,
        data,
        (encoder, denoiser, reader),
        empty,
        state,
        budget_s=budget_s - reading_s,
        max_steps=max_steps,
        resumed=resume,
    )
    if machine.is_first:
        save_text(state / "teacher", tokenizer, encoder)
        denoiser.half().save_pretrained(state / "teacher" / "transformer", max_shard_size="14MB")


def build_denoiser(scale: Scale) -> Any:
    """Return an untrained denoiser that predicts zero."""
    denoiser = WanTransformer3DModel(**scale.denoiser)
    torch.nn.init.zeros_(denoiser.proj_out.weight)
    torch.nn.init.zeros_(denoiser.proj_out.bias)
    for parameter in denoiser.blocks.parameters():
        if parameter.ndim == 2:
            torch.nn.init.xavier_uniform_(parameter)
    return denoiser


@torch.no_grad()
def encode_dataset(
    machine: Machine, scale: Scale, vae: Any, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Dataset:
    """Render, encode and caption this process's share of the training clips."""
    rng = random.Random(seed)
    scenes, parameters = scenes_and_parameters(scale.clips, rng)
    tokens, named = captions_of(scenes, rng, tokenizer, scale.captions_per_clip)
    vae = vae.to(machine.device, machine.dtype).eval()
    mean, std = latent_statistics(vae, machine.device)
    if machine.on_gpu:
        channels_last(vae)
    latents, focuses = [], []
    begun = time.monotonic()
    for batch in torch.split(parameters.to(machine.device), 16):
        if time.monotonic() - begun > ENCODING_S:
            break
        clip, focus = render_clips(batch, scale.frames, scale.height, scale.width)
        encoded, _ = encode_clip(vae, to_levels(clip, machine.dtype))
        latents.append(((encoded - mean) / std).to(machine.dtype))
        focuses.append((_to_latent_grid(focus) * 255).to(torch.uint8))
        if machine.on_gpu:
            torch.cuda.synchronize()  # so that the clock includes the work
    machine.log(f"denoiser: {sum(map(len, latents))} clips encoded in {time.monotonic() - begun:.0f} s")
    return Dataset(
        torch.cat(latents), torch.cat(focuses), tokens.to(machine.device), named.to(machine.device)
    )


def _to_latent_grid(focus: torch.Tensor) -> torch.Tensor:
    flat = F.avg_pool3d(focus, (1, 8, 8))
    return torch.cat([flat[:, :, :1], F.avg_pool3d(flat[:, :, 1:], (4, 1, 1))], 2)


def _train_reading(
    machine: Machine,
    scale: Scale,
    data: Dataset,
    encoder: Any,
    reader: Reader,
    learning: list[Any],
    *,
    budget_s: float,
    max_steps: int | None,
) -> None:
    learner = Learner(machine, learning, 1e-3)
    for step, fraction in machine.progress(budget_s, max_steps):
        tokens, named = data.caption_batch(
            torch.randint(0, len(data.latents), (scale.text_batch,), device=machine.device)
        )
        with machine.autocast():
            embeddings = embed(encoder, tokens)
        loss = reader.loss(embeddings, tokens, named)
        torch.autograd.backward(loss)
        learner.step(ramp(step, fraction))
        if step % 200 == 0:
            machine.log(f"reading {step} {fraction:.0%} loss {loss.item():.4f}")


def _train_denoising(
    machine: Machine,
    scale: Scale,
    data: Dataset,
    modules: tuple[Any, Any, Reader],
    empty: torch.Tensor,
    state: Path,
    *,
    budget_s: float,
    max_steps: int | None,
    resumed: bool,
) -> None:
    encoder, denoiser, reader = modules
    learner = Learner(machine, list(modules), RESUMED_RATE if resumed else RATE)
    curve = Curve("denoiser: flow-matching loss")
    if machine.on_gpu:
        denoiser.compile_repeated_blocks(fullgraph=True, dynamic=False)
    total = torch.zeros((), device=machine.device)
    for step, fraction, latents, weight, tokens, named in _batches(
        machine, scale, data, empty, budget_s, max_steps, 0.0 if resumed else SHORT_FRACTION
    ):
        noise = torch.randn_like(latents)
        sigma = torch.sigmoid(torch.randn(len(latents), device=machine.device))
        sigma = FLOW_SHIFT * sigma / (1 + (FLOW_SHIFT - 1) * sigma)
        mixed = torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1, 1))
        with machine.autocast():
            embeddings = embed(encoder, tokens)
            predicted = denoiser(mixed, sigma * 1000, embeddings, return_dict=False)[0]
        denoising = (weight * (predicted.float() - (noise - latents)).square()).mean()
        torch.autograd.backward(denoising + READING_WEIGHT * reader.loss(embeddings, tokens, named))
        norm = learner.step(ramp(step, fraction, warm_up=200, hold=0.15 if resumed else 0.55))
        total += denoising.detach()
        if step % 100 == 99 or max_steps:
            mean = float(total) / (1 if max_steps else 100)
            total.zero_()
            curve.add(step, mean)
            if step % 400 == 399:
                machine.log(
                    f"denoiser {step} {fraction:.0%} frames {latents.shape[2]} loss {mean:.4f} norm {norm.item():.2f}"
                )
    learner.use_average()
    if machine.is_first:
        curve.save(state / "curves" / "denoiser.png")


def _batches(
    machine: Machine,
    scale: Scale,
    data: Dataset,
    empty: torch.Tensor,
    budget_s: float,
    max_steps: int | None,
    short_fraction: float,
) -> Iterator[tuple[int, float, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    for step, fraction in machine.progress(budget_s, max_steps):
        short = fraction < short_fraction if max_steps is None else step < short_fraction
        frames, size = (SHORT_FRAMES, scale.short_batch) if short else (scale.latent_frames, scale.long_batch)
        chosen = torch.randint(0, len(data.latents), (size,), device=machine.device)
        tokens, named = data.caption_batch(chosen)
        empty_here = torch.rand(size, 1, device=machine.device) < EMPTY_CAPTIONS
        tokens, named = torch.where(empty_here, empty, tokens), torch.where(empty_here, -1, named)
        weight = 1 + FOCUS_WEIGHT / 255 * data.focus[chosen, :, :frames].float()
        weight = torch.cat([weight[:, :, :1] * FIRST_FRAME_WEIGHT, weight[:, :, 1:]], 2)
        yield step, fraction, data.latents[chosen, :, :frames].float(), weight / weight.mean(), tokens, named
