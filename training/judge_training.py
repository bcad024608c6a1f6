"""Stage `judge`: train the judges on rendered clips, and measure them on rendered clips of held-out combinations.

The face judge learns from frames whose face was rendered wrong on purpose (an eye missing, two merged, eyes uneven) or
smeared. Pictures are augmented with a decoder's softness and noise, so that these alone fail no face.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from training.clips import render_clips, scenes_and_parameters
from training.config import Scale
from training.judge import FRAME_STRIDE, SEEN_IN_A_LOOK, Judges, tally
from training.machine import Machine
from training.optimize import Learner, ramp
from training.report import Curve, save_json
from training.world.scene import ATTRIBUTES, FACE_FAULTS, Scene, parameters_of, sample_scene

RATE = 1.5e-3
SHARES = {"look": 0.45, "motion": 0.35, "face": 0.2}
"""Of the stage's time, for each judge."""

Loss = Callable[[], torch.Tensor]


def train_judges(
    machine: Machine, scale: Scale, state: Path, *, budget_s: float, max_steps: int | None = None
) -> dict[str, float]:
    """Train the judges into `state/judge`; return their accuracy on rendered held-out clips."""
    judges = Judges.untrained(machine.device)
    losses: dict[str, tuple[Any, Loss]] = {
        "look": (judges.look, _look_loss(machine, scale, judges)),
        "motion": (judges.motion, _motion_loss(machine, scale, judges)),
        "face": (judges.face, _face_loss(machine, scale, judges)),
    }
    for name, (judge, loss_of_batch) in losses.items():
        curve = Curve(f"{name} judge: cross entropy")
        learner = Learner(machine, [judge], RATE, average_over=100)
        for step, fraction in machine.progress(budget_s * SHARES[name], max_steps):
            loss = loss_of_batch()
            torch.autograd.backward(loss)
            learner.step(ramp(step, fraction, warm_up=30, hold=0.2))
            if step % 20 == 0:
                curve.add(step, loss.item())
        learner.use_average()
        machine.log(f"{name} judge: {step + 1} steps, loss {loss.item():.4f}")
        curve.save(state / "curves" / f"{name}_judge.png")
    judges.save(state / "judge")
    accuracy = validate(machine, scale, judges.eval())
    machine.log(f"judges on rendered held-out clips: {accuracy}")
    save_json(state / "judge" / "accuracy.json", accuracy)
    return accuracy


def _look_loss(machine: Machine, scale: Scale, judges: Judges) -> Loss:
    rng = random.Random(11)
    seen = [name in SEEN_IN_A_LOOK for name in ATTRIBUTES]

    def loss() -> torch.Tensor:
        scenes, parameters = scenes_and_parameters(4 * scale.judge_batch, rng)
        shown = parameters.to(machine.device)
        pictures, _ = render_clips(shown, 2, scale.height, scale.width, stride=FRAME_STRIDE)
        labels = torch.tensor([scene.labels() for scene in scenes], device=machine.device)[:, seen]
        augmented = _augmented(pictures)
        with machine.autocast():
            answers = judges.look(augmented[:, :, 0], augmented[:, :, 1])
        losses = [
            F.cross_entropy(answer.float(), labels[:, i], ignore_index=-1, reduction="sum")
            / (labels[:, i] >= 0).sum().clamp(min=1)
            for i, answer in enumerate(answers)
        ]
        return torch.stack(losses).mean()

    return loss


def _motion_loss(machine: Machine, scale: Scale, judges: Judges) -> Loss:
    rng, action = random.Random(13), list(ATTRIBUTES).index("action")
    frames = (scale.frames - 1) // FRAME_STRIDE + 1

    def loss() -> torch.Tensor:
        scenes = [
            _scene_like(rng, lambda scene: scene.character != "nobody") for _ in range(scale.judge_batch)
        ]
        parameters = torch.from_numpy(np.stack([parameters_of(scene, rng) for scene in scenes]))
        shown = parameters.to(machine.device)
        pictures, _ = render_clips(shown, frames, scale.height, scale.width, stride=FRAME_STRIDE)
        labels = torch.tensor([scene.labels()[action] for scene in scenes], device=machine.device)
        with machine.autocast():
            answer = judges.motion(_augmented(pictures))
        return F.cross_entropy(answer.float(), labels)

    return loss


def _face_loss(machine: Machine, scale: Scale, judges: Judges) -> Loss:
    rng = random.Random(12)

    def loss() -> torch.Tensor:
        frames, whole = _faces(machine, scale, 4 * scale.judge_batch, rng, held_out=False)
        with machine.autocast():
            answer = judges.face(frames)
        return F.cross_entropy(answer.float(), whole)

    return loss


def _augmented(pictures: torch.Tensor) -> torch.Tensor:
    """Soften pictures and add noise, as a decoder does; one strength for the batch."""
    softness, noise = float(torch.rand(())), 8 * float(torch.rand(()))
    x = pictures.float()
    soft = F.avg_pool3d(x, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    x = torch.lerp(x, soft, 0.8 * softness) + noise * torch.randn_like(x)
    return x.clamp(0, 255).to(torch.uint8)


def _scene_like(rng: random.Random, fits: Callable[[Scene], bool], *, held_out: bool | None = False) -> Scene:
    while True:
        scene = sample_scene(rng, held_out=held_out)
        if fits(scene):
            return scene


def _faces(
    machine: Machine, scale: Scale, count: int, rng: random.Random, *, held_out: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one frame each of *count* clips, uint8, and whether its face is whole."""
    faults = [rng.choice((*FACE_FAULTS[1:], "smear")) if rng.random() < 0.5 else "none" for _ in range(count)]
    parameters = [
        parameters_of(
            _scene_like(rng, lambda scene: scene.is_human, held_out=held_out),
            rng,
            face_fault="none" if fault == "smear" else fault,
        )
        for fault in faults
    ]
    pictures, focus = render_clips(
        torch.from_numpy(np.stack(parameters)).to(machine.device), 1, scale.height, scale.width
    )
    frames, head = pictures[:, :, 0].float(), (focus[:, :, 0] > 0.9).float()
    smeared = torch.tensor([fault == "smear" for fault in faults], device=machine.device).view(-1, 1, 1, 1)
    blurred = F.avg_pool2d(frames, 7, 1, 3, count_include_pad=False)
    frames = torch.where(smeared, frames + head * (blurred - frames), frames)
    whole = torch.tensor([fault == "none" for fault in faults], device=machine.device).long()
    return _augmented(frames[:, :, None])[:, :, 0], whole


@torch.no_grad()
def validate(machine: Machine, scale: Scale, judges: Judges) -> dict[str, float]:
    """Return the accuracy of each answer on rendered clips of held-out combinations."""
    rng = random.Random(77)
    frames = (scale.frames - 1) // FRAME_STRIDE + 1
    right, asked = torch.zeros(len(ATTRIBUTES)), torch.zeros(len(ATTRIBUTES))
    for _ in range(16 if machine.on_gpu else 1):
        scenes, parameters = scenes_and_parameters(scale.judge_batch, rng, held_out=True)
        shown = parameters.to(machine.device)
        pictures, _ = render_clips(shown, frames, scale.height, scale.width, stride=FRAME_STRIDE)
        hits, counts = tally(judges.answers(pictures), torch.tensor([scene.labels() for scene in scenes]))
        right, asked = right + hits, asked + counts
    stills, whole = _faces(machine, scale, 16 * scale.judge_batch, rng, held_out=True)
    seen_whole = judges.face(stills).argmax(1)
    accuracy = {name: float(right[i] / asked[i].clamp(min=1)) for i, name in enumerate(ATTRIBUTES)}
    accuracy["face_whole_seen_whole"] = float(seen_whole[whole == 1].float().mean())
    accuracy["face_faulty_seen_faulty"] = float((1 - seen_whole[whole == 0]).float().mean())
    return {name: round(value, 4) for name, value in accuracy.items()}
