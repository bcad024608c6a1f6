"""Stage `judge`: two small networks that look at pixels, so that evaluation does not have to believe latents.

`ClipJudge` names the attributes of a clip. `FaceJudge` says whether the face in a frame is whole: it learns from
frames whose face was drawn wrong on purpose (an eye missing, two merged, eyes uneven) or smeared. Both are
validated on drawn clips of held-out combinations before anything else is judged.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from training.clips import draw, scenes_and_parameters
from training.config import Scale
from training.machine import Machine
from training.report import Curve
from training.world.scene import ATTRIBUTES, FACE_FAULTS, Scene, parameters_of, sample_scene

RATE = 1.5e-3
FRAME_STRIDE = 3
"""The clip judge looks at every third frame: 5.3 a second, above twice the fastest stride."""


def _block(
    inner: type[torch.nn.Module], inputs: int, outputs: int, kernel: Any, stride: Any, padding: Any
) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        inner(inputs, outputs, kernel, stride, padding), torch.nn.GroupNorm(8, outputs), torch.nn.SiLU()
    )


class ClipJudge(torch.nn.Module):
    """Clips to one answer per attribute; near layers see particles, far ones places and motion."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv3d
        self.near = torch.nn.Sequential(
            _block(conv, 3, 32, (1, 5, 5), (1, 2, 2), (0, 2, 2)), _block(conv, 32, 64, 3, (1, 2, 2), 1)
        )
        self.middle = _block(conv, 64, 128, 3, (2, 2, 2), 1)
        self.far = torch.nn.Sequential(
            _block(conv, 128, 192, 3, (2, 2, 2), 1), _block(conv, 192, 192, 3, 1, 1)
        )
        width = 2 * (64 + 128 + 192)
        self.heads = torch.nn.ModuleList(
            [torch.nn.Linear(width, len(values)) for values in ATTRIBUTES.values()]
        )

    def forward(self, glance: torch.Tensor) -> list[torch.Tensor]:
        """Return logits (clips, values) per attribute.

        Args:
            glance: Every `FRAME_STRIDE`th frame, uint8 (clips, 3, frames, height, width).
        """
        near = self.near(glance.float() / 127.5 - 1)
        middle = self.middle(near)
        pools = [
            pool
            for x in (near, middle, self.far(middle))
            for pool in (x.flatten(2).mean(2), x.flatten(2).amax(2))
        ]
        summary = torch.cat(pools, 1)
        return [head(summary) for head in self.heads]


class FaceJudge(torch.nn.Module):
    """Frames to whether the face in them is whole."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.features = torch.nn.Sequential(
            _block(conv, 3, 48, 5, 2, 2),
            _block(conv, 48, 96, 3, 1, 1),
            _block(conv, 96, 128, 3, 2, 1),
            _block(conv, 128, 192, 3, 2, 1),
            _block(conv, 192, 256, 3, 2, 1),
        )
        self.head = torch.nn.Linear(2 * 256, 2)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return logits (frames, 2), faulty and whole, of uint8 frames (frames, 3, height, width)."""
        x = self.features(frames.float() / 127.5 - 1).flatten(2)
        answer: torch.Tensor = self.head(torch.cat([x.mean(2), x.amax(2)], 1))
        return answer


def train_judges(
    machine: Machine, scale: Scale, state: Path, *, budget_s: float, max_steps: int | None = None
) -> dict[str, float]:
    """Train both judges into `state/judge`; return their accuracy on drawn held-out clips."""
    clip_judge, face_judge = ClipJudge().to(machine.device), FaceJudge().to(machine.device)
    _train_clip_judge(machine, scale, clip_judge, state, budget_s=budget_s * 0.6, max_steps=max_steps)
    _train_face_judge(machine, scale, face_judge, state, budget_s=budget_s * 0.4, max_steps=max_steps)
    (state / "judge").mkdir(parents=True, exist_ok=True)
    for name, judge in (("clip", clip_judge), ("face", face_judge)):
        save_file(
            {key: value.half().contiguous() for key, value in judge.state_dict().items()},
            state / "judge" / f"{name}.safetensors",
        )
    accuracy = validate(machine, scale, clip_judge.eval(), face_judge.eval())
    machine.say(f"judge on drawn held-out clips: {accuracy}")
    return accuracy


def load_judges(state: Path, device: torch.device) -> tuple[ClipJudge, FaceJudge]:
    """Return the judges of `state/judge`."""
    judges = ClipJudge(), FaceJudge()
    for name, judge in zip(("clip", "face"), judges, strict=True):
        judge.load_state_dict(load_file(state / "judge" / f"{name}.safetensors"))
        judge.float().to(device).eval()
    return judges


def _train_clip_judge(
    machine: Machine, scale: Scale, judge: ClipJudge, state: Path, *, budget_s: float, max_steps: int | None
) -> None:
    optimizer, curve, rng = (
        torch.optim.AdamW(judge.parameters(), RATE),
        Curve("clip judge: cross entropy"),
        random.Random(11),
    )
    for step, fraction in machine.progress(budget_s, max_steps):
        scenes, parameters = scenes_and_parameters(scale.judge_batch, rng)
        pictures, _ = draw(parameters.to(machine.device), scale.frames, scale.height, scale.width)
        labels = torch.tensor([scene.labels() for scene in scenes], device=machine.device)
        with machine.autocast():
            answers = judge(_worn(pictures[:, :, ::FRAME_STRIDE]))
        losses = [
            F.cross_entropy(a.float(), labels[:, i], ignore_index=-1, reduction="sum")
            for i, a in enumerate(answers)
        ]
        loss = torch.stack(losses).sum() / (labels >= 0).sum()
        _step(optimizer, loss, fraction)
        if step % 20 == 0:
            curve.add(step, loss.item())
    machine.say(f"clip judge: {step + 1} steps, loss {loss.item():.4f}")
    curve.save(state / "curves" / "clip_judge.png")


def _train_face_judge(
    machine: Machine, scale: Scale, judge: FaceJudge, state: Path, *, budget_s: float, max_steps: int | None
) -> None:
    optimizer, curve, rng = (
        torch.optim.AdamW(judge.parameters(), RATE),
        Curve("face judge: cross entropy"),
        random.Random(12),
    )
    for step, fraction in machine.progress(budget_s, max_steps):
        frames, whole = _faces(machine, scale, 2 * scale.judge_batch, rng, held_out=False)
        with machine.autocast():
            answer = judge(frames)
        loss = F.cross_entropy(answer.float(), whole)
        _step(optimizer, loss, fraction)
        if step % 20 == 0:
            curve.add(step, loss.item())
    machine.say(f"face judge: {step + 1} steps, loss {loss.item():.4f}")
    curve.save(state / "curves" / "face_judge.png")


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, fraction: float) -> None:
    optimizer.param_groups[0]["lr"] = RATE * max(0.02, 1 - fraction)
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad()


def _worn(pictures: torch.Tensor) -> torch.Tensor:
    """Wear pictures a little, as a decoder does: softness and noise, one strength for the batch."""
    softness, noise = float(torch.rand(())), 12 * float(torch.rand(()))
    x = pictures.float()
    soft = F.avg_pool3d(x, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    x = torch.lerp(x, soft, 0.8 * softness) + noise * torch.randn_like(x)
    return x.clamp(0, 255).to(torch.uint8)


def _human(rng: random.Random, *, held_out: bool) -> Scene:
    while True:
        scene = sample_scene(rng, held_out=held_out)
        if scene.is_human:
            return scene


def _faces(
    machine: Machine, scale: Scale, count: int, rng: random.Random, *, held_out: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one frame each of *count* clips, uint8, and whether its face is whole."""
    faults = [rng.choice((*FACE_FAULTS[1:], "smear")) if rng.random() < 0.5 else "none" for _ in range(count)]
    drawn = [
        parameters_of(_human(rng, held_out=held_out), rng, face_fault="none" if fault == "smear" else fault)
        for fault in faults
    ]
    pictures, focus = draw(torch.from_numpy(np.stack(drawn)).to(machine.device), 1, scale.height, scale.width)
    frames, head = pictures[:, :, 0].float(), (focus[:, :, 0] > 0.9).float()
    smeared = torch.tensor([fault == "smear" for fault in faults], device=machine.device).view(-1, 1, 1, 1)
    blurred = F.avg_pool2d(frames, 7, 1, 3, count_include_pad=False)
    frames = torch.where(smeared, frames + head * (blurred - frames), frames)
    whole = torch.tensor([fault == "none" for fault in faults], device=machine.device).long()
    return _worn(frames[:, :, None])[:, :, 0], whole


@torch.no_grad()
def validate(
    machine: Machine, scale: Scale, clip_judge: ClipJudge, face_judge: FaceJudge
) -> dict[str, float]:
    """Return the accuracy of each answer on drawn clips of held-out combinations."""
    rng = random.Random(77)
    right, asked = torch.zeros(len(ATTRIBUTES)), torch.zeros(len(ATTRIBUTES))
    for _ in range(8 if machine.on_gpu else 1):
        scenes, parameters = scenes_and_parameters(scale.judge_batch, rng, held_out=True)
        pictures, _ = draw(parameters.to(machine.device), scale.frames, scale.height, scale.width)
        hits, counts = score(clip_judge, pictures, torch.tensor([scene.labels() for scene in scenes]))
        right, asked = right + hits, asked + counts
    frames, whole = _faces(machine, scale, 8 * scale.judge_batch, rng, held_out=True)
    seen_whole = face_judge(frames).argmax(1)
    accuracy = {name: float(right[i] / asked[i].clamp(min=1)) for i, name in enumerate(ATTRIBUTES)}
    accuracy["face_whole_seen_whole"] = float(seen_whole[whole == 1].float().mean())
    accuracy["face_faulty_seen_faulty"] = float((1 - seen_whole[whole == 0]).float().mean())
    return {name: round(value, 4) for name, value in accuracy.items()}


def score(
    judge: ClipJudge, pictures: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per attribute how many clips the judge saw as labelled, and how many were labelled (-1 is not)."""
    answers = torch.stack([answer.argmax(1).cpu() for answer in judge(pictures[:, :, ::FRAME_STRIDE])], 1)
    return ((answers == labels) & (labels >= 0)).sum(0).float(), (labels >= 0).sum(0).float()
