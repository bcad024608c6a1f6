"""Stage `evaluate`: does the picture show what the prompt asked for?

Clips of held-out prompts are sampled at the served steps, decoded, and judged from their pixels. The same scenes from the
renderer show what a perfect student would score. Flicker is the second difference in time, relative to the renderer's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anime_studio.checkpoints.store import Checkpoint
from anime_studio.core.clip import plan
from anime_studio.core.recipes import DEMO
from anime_studio.engine.startup import start_engine
from common.schemas import GenerateRequest
from training.autoencoder import decode_clip, latent_statistics, load_vae
from training.checkpoint import load_generator
from training.clips import render_clips, to_pictures
from training.config import GUIDANCE, STUDENT_STEPS, TEACHER_STEPS, Scale
from training.judge import FRAME_STRIDE, Judges, tally
from training.machine import Machine
from training.report import measured_on, save_json, save_sheet
from training.sampling import guided, sample
from training.text import embed, tokenize
from training.vae import measure_vae
from training.world.captions import Caption
from training.world.held_out import write_held_out_prompts
from training.world.scene import ATTRIBUTES, Scene, parameters_of

SEED = 2024
FACE_FRAMES = 5
SHOWN_PROMPTS, SHOWN_FRAMES = 10, 6
BATCH = 16

Prompts = Sequence[tuple[Scene, Caption]]


@dataclass(frozen=True)
class Way:
    """A denoiser and how it is sampled: one in the state folder, or the shipped one when *folder* is None."""

    name: str
    folder: str | None
    steps: int
    guidance: float = 1.0


WAYS = (
    Way("student", "student", STUDENT_STEPS),
    Way("teacher", "teacher", TEACHER_STEPS, GUIDANCE),
    Way("teacher_without_guidance", "teacher", STUDENT_STEPS),
)
SHIPPED_WAYS = (Way("student", None, STUDENT_STEPS), Way("student_4_steps", None, 4))


def evaluate(
    machine: Machine, scale: Scale, state: Path, results: Path, *, shipped: Path | None = None
) -> dict[str, Any]:
    """Judge the student, and others beside it; write `evaluation.json` and contact sheets into *results*.

    Args:
        machine: The run.
        scale: Sizes.
        state: Folder of the run; its judges and VAE are used.
        results: Where the table and the sheets go.
        shipped: Judge the clips that the engine generates with this checkpoint, instead of what is in *state*.
    """
    prompts = write_held_out_prompts(scale.prompts, SEED)
    texts = [caption.text for _, caption in prompts]
    judges = Judges.load(state / "judge", machine.device)
    vae = load_vae(state / "vae").to(machine.device).eval()
    truth = _rendered(machine, scale, prompts)
    rows = {"rendered": _judge(truth, truth, prompts, judges)}
    for way in SHIPPED_WAYS if shipped else WAYS:
        if shipped:
            clips = generate_shipped(scale, shipped, way, texts)
        elif way.folder and (state / way.folder).exists():
            clips = generate(machine, scale, vae, state / way.folder, way, texts)
        else:
            continue
        rows[way.name] = _judge(clips, truth, prompts, judges)
        machine.log(f"{way.name}: {rows[way.name]}")
        _save_sheets(results, way, clips, prompts)
    served = rows.get("student") or rows["teacher"]
    evaluation: dict[str, Any] = {"prompts": len(prompts), "steps": STUDENT_STEPS, "guidance": None, **served}
    reconstruction = measure_vae(machine, scale, vae, state)
    evaluation["vae_psnr_db"] = round(reconstruction.psnr_db, 2)
    evaluation["vae_psnr_by_weather_db"] = reconstruction.by_weather_db
    evaluation["judge_on_rendered_held_out"] = json.loads((state / "judge" / "accuracy.json").read_text())
    evaluation["others"] = {name: row for name, row in rows.items() if name != "student"}
    evaluation["measured_on"] = measured_on(torch.device("cpu") if shipped else machine.device)
    save_json(results / "evaluation.json", evaluation)
    return evaluation


def generate_shipped(scale: Scale, checkpoint: Path, way: Way, prompts: Sequence[str]) -> torch.Tensor:
    """Return the clips that the engine generates on this machine's CPU, from the noise that `generate` would use."""
    engine = start_engine(DEMO, Checkpoint.at(checkpoint), device="cpu")
    sizes = {"num_frames": scale.frames, "native_width": scale.width, "native_height": scale.height}
    clips = []
    for seed, prompt in enumerate(prompts):
        spec = plan(GenerateRequest(prompt=prompt), DEMO, model_revision=DEMO.revision, seed=seed).model_copy(
            update=sizes | {"num_inference_steps": way.steps}
        )
        latents = engine.denoise(spec, *engine.embed(spec), lambda *_: None)
        frames = engine.frames(latents, larger=False)  # the judges know small frames
        clips.append(torch.from_numpy(np.concatenate(list(frames))).permute(3, 0, 1, 2))
    return torch.stack(clips)


@torch.no_grad()
def generate(
    machine: Machine, scale: Scale, vae: Any, folder: Path, way: Way, prompts: Sequence[str]
) -> torch.Tensor:
    """Return a clip of *way* for each prompt: uint8 (prompts, 3, frames, height, width), on the CPU.

    Prompt number i starts from noise of seed i.
    """
    tokenizer, encoder, denoiser = load_generator(folder, machine)
    mean, std = latent_statistics(vae, machine.device)
    empty = embed(encoder, tokenize(tokenizer, [""]).to(machine.device).long())
    shape = (scale.vae["z_dim"], scale.latent_frames, scale.height // 8, scale.width // 8)
    pictures = []
    for first in range(0, len(prompts), BATCH):
        texts = list(prompts[first : first + BATCH])
        noise = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(first + i))
                for i in range(len(texts))
            ]
        )
        with machine.autocast():
            embeddings = embed(encoder, tokenize(tokenizer, texts).to(machine.device).long())
            velocity = guided(denoiser, embeddings, empty, way.guidance)
            latents = sample(velocity, noise.to(machine.device), way.steps)
            pictures.append(to_pictures(decode_clip(vae, latents * std + mean)).cpu())
    return torch.cat(pictures)


def _rendered(machine: Machine, scale: Scale, prompts: Prompts) -> torch.Tensor:
    rng, generator = random.Random(SEED), torch.Generator(machine.device).manual_seed(SEED)
    parameters = torch.from_numpy(np.stack([parameters_of(scene, rng) for scene, _ in prompts]))
    parts = [
        render_clips(part.to(machine.device), scale.frames, scale.height, scale.width, generator)[0].cpu()
        for part in torch.split(parameters, BATCH)
    ]
    return torch.cat(parts)


def _judge(clips: torch.Tensor, truth: torch.Tensor, prompts: Prompts, judges: Judges) -> dict[str, float]:
    device = next(judges.look.parameters()).device
    labels = torch.tensor([
        [label if name in caption.named else -1 for name, label in zip(ATTRIBUTES, scene.labels(), strict=True)]
        for scene, caption in prompts
    ])  # fmt: skip
    answers = torch.cat(
        [judges.answers(part[:, :, ::FRAME_STRIDE].to(device)) for part in torch.split(clips, BATCH)]
    )
    right, asked = tally(answers, labels)
    row = {name: float(right[i] / asked[i].clamp(min=1)) for i, name in enumerate(ATTRIBUTES)}
    row["face_whole"] = _whole_faces(clips, prompts, judges, device)
    row["flicker_ratio"] = _flicker(clips) / _flicker(truth)
    row["motion_ratio"] = _motion(clips) / _motion(truth)
    row["first_to_last_ratio"] = _drift(clips) / _drift(truth)
    return {name: round(value, 4) for name, value in row.items()}


@torch.no_grad()
def _whole_faces(clips: torch.Tensor, prompts: Prompts, judges: Judges, device: torch.device) -> float:
    """Return the fraction of frames, over clips of people, whose face is whole."""
    people = [i for i, (scene, _) in enumerate(prompts) if scene.is_human]
    if not people:
        return 1.0
    last = clips.shape[2] - 1
    frames = torch.cat(
        [clips[people, :, last * (2 * k + 1) // (2 * FACE_FRAMES)] for k in range(FACE_FRAMES)]
    )
    return float(
        torch.cat(
            [judges.face(part.to(device)).argmax(1).float().cpu() for part in torch.split(frames, 64)]
        ).mean()
    )


def _flicker(clips: torch.Tensor) -> float:
    return float(np.mean([clip.float().diff(n=2, dim=1).abs().mean() for clip in clips]))


def _motion(clips: torch.Tensor) -> float:
    return float(np.mean([clip.float().diff(dim=1).abs().mean() for clip in clips]))


def _drift(clips: torch.Tensor) -> float:
    """How far the palette of the last frames is from that of the first, per 16x16 block."""
    blocks = torch.nn.functional.avg_pool3d(clips.float(), (1, 16, 16))
    quarter = max(1, clips.shape[2] // 4)
    return float((blocks[:, :, :quarter].mean(2) - blocks[:, :, -quarter:].mean(2)).abs().mean())


def _save_sheets(results: Path, way: Way, clips: torch.Tensor, prompts: Prompts) -> None:
    shown = [round(i * (clips.shape[2] - 1) / (SHOWN_FRAMES - 1)) for i in range(SHOWN_FRAMES)]
    for sheet in range(2 if way.name == "student" else 1):
        chosen = range(sheet * SHOWN_PROMPTS, min((sheet + 1) * SHOWN_PROMPTS, len(clips)))
        if chosen:
            rows = [clips[i][:, shown].transpose(0, 1) for i in chosen]
            save_sheet(results / f"{way.name}_{sheet + 1}.png", rows, [prompts[i][1].text for i in chosen])
