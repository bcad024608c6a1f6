"""Small networks that look at pixels, so that evaluation need not rely on latents.

`LookJudge` names what one look at a clip shows: a frame at full size and what changed since shortly before, which
distinguishes drifting petals from flowers. `MotionJudge` names the action from the whole clip at half size.
`FaceJudge` decides whether the face in a frame is whole. All are validated on rendered clips of held-out combinations
before anything else is judged; `training.judge_training` trains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from training.world.scene import ACTIONS, ATTRIBUTES

FRAME_STRIDE = 3
"""Judges look at every third frame: 5.3 a second, above twice the fastest stride."""
LOOKS = 4
"""Looks at a clip, whose answers are averaged."""
SEEN_IN_A_LOOK = tuple(name for name in ATTRIBUTES if name != "action")


def _block(
    inner: type[torch.nn.Module], inputs: int, outputs: int, kernel: Any, stride: Any = 1, padding: Any = 1
) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        inner(inputs, outputs, kernel, stride, padding), torch.nn.GroupNorm(8, outputs), torch.nn.SiLU()
    )


def _pooled(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(2)
    return torch.cat([flat.mean(2), flat.amax(2)], 1)


def _with_change(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return frames in [-1, 1] beside what changed in them, (…, 6, height, width)."""
    return torch.cat([now / 127.5 - 1, (now - before) / 63.75], -3)


class LookJudge(torch.nn.Module):
    """Looks to one answer per attribute; near layers see particles, far ones places and people."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.near = torch.nn.Sequential(_block(conv, 6, 32, 5, 2, 2), _block(conv, 32, 48, 3))
        self.middle = torch.nn.Sequential(_block(conv, 48, 96, 3, 2), _block(conv, 96, 96, 3))
        self.far = torch.nn.Sequential(
            _block(conv, 96, 160, 3, 2), _block(conv, 160, 224, 3, 2), _block(conv, 224, 224, 3)
        )
        width = 2 * (48 + 96 + 224)
        self.heads = torch.nn.ModuleList(
            [torch.nn.Linear(width, len(ATTRIBUTES[name])) for name in SEEN_IN_A_LOOK]
        )

    def forward(self, before: torch.Tensor, now: torch.Tensor) -> list[torch.Tensor]:
        """Return logits (looks, values) for each of `SEEN_IN_A_LOOK`.

        Args:
            before: uint8 (looks, 3, height, width), `FRAME_STRIDE` frames earlier than
            now: the same clips.
        """
        near = self.near(_with_change(now.float(), before.float()))
        middle = self.middle(near)
        summary = torch.cat([_pooled(x) for x in (near, middle, self.far(middle))], 1)
        return [head(summary) for head in self.heads]


class MotionJudge(torch.nn.Module):
    """Clips to the action in them."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.frame = torch.nn.Sequential(
            _block(conv, 6, 32, 5, 2, 2), _block(conv, 32, 64, 3, 2), _block(conv, 64, 96, 3, 2)
        )
        self.motion = torch.nn.Sequential(
            _block(torch.nn.Conv3d, 96, 128, 3, (1, 2, 2)), _block(torch.nn.Conv3d, 128, 128, 3, (2, 1, 1))
        )
        self.head = torch.nn.Linear(2 * 128, len(ACTIONS))

    def forward(self, glance: torch.Tensor) -> torch.Tensor:
        """Return logits (clips, actions) of every `FRAME_STRIDE`th frame, uint8 (clips, 3, frames, height, width)."""
        frames = F.avg_pool3d(glance.float(), (1, 2, 2)).transpose(1, 2)
        seen = _with_change(frames, torch.cat([frames[:, :1], frames[:, :-1]], 1))
        features = self.frame(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]).transpose(1, 2)
        answer: torch.Tensor = self.head(_pooled(self.motion(features)))
        return answer


class FaceJudge(torch.nn.Module):
    """Frames to whether the face in them is whole."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.features = torch.nn.Sequential(
            _block(conv, 3, 48, 5, 2, 2),
            _block(conv, 48, 96, 3),
            _block(conv, 96, 128, 3, 2),
            _block(conv, 128, 192, 3, 2),
            _block(conv, 192, 256, 3, 2),
        )
        self.head = torch.nn.Linear(2 * 256, 2)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return logits (frames, 2), faulty and whole, of uint8 frames (frames, 3, height, width)."""
        answer: torch.Tensor = self.head(_pooled(self.features(frames.float() / 127.5 - 1)))
        return answer


@dataclass(frozen=True)
class Judges:
    """The three together."""

    look: LookJudge
    motion: MotionJudge
    face: FaceJudge

    @classmethod
    def untrained(cls, device: torch.device) -> Judges:
        """Return judges with random weights."""
        return cls(LookJudge().to(device), MotionJudge().to(device), FaceJudge().to(device))

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Judges:
        """Return the judges saved in *folder*."""
        judges = cls.untrained(device)
        for name, judge in judges._named():
            judge.load_state_dict(load_file(folder / f"{name}.safetensors"))
        return judges.eval()

    def save(self, folder: Path) -> None:
        """Write one file per judge into *folder*."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, judge in self._named():
            state = {key: value.half().contiguous() for key, value in judge.state_dict().items()}
            save_file(state, folder / f"{name}.safetensors")

    def eval(self) -> Judges:
        """Put them into evaluation mode; return them."""
        for _, judge in self._named():
            judge.eval()
        return self

    def _named(self) -> list[tuple[str, torch.nn.Module]]:
        return [("look", self.look), ("motion", self.motion), ("face", self.face)]

    @torch.no_grad()
    def answers(self, glance: torch.Tensor) -> torch.Tensor:
        """Return what each clip shows, an index per attribute: int64 (clips, attributes), on the CPU.

        Args:
            glance: Every `FRAME_STRIDE`th frame, uint8 (clips, 3, frames, height, width), on the judges' device.
        """
        last = glance.shape[2] - 1
        at = [1 + round(i * (last - 1) / (LOOKS - 1)) for i in range(LOOKS)] if last else [0]
        looks = [self.look(glance[:, :, max(0, i - 1)], glance[:, :, i]) for i in at]
        named = {
            name: torch.stack([look[k].float().log_softmax(1) for look in looks]).mean(0).argmax(1)
            for k, name in enumerate(SEEN_IN_A_LOOK)
        }
        named["action"] = self.motion(glance).argmax(1)
        return torch.stack([named[name] for name in ATTRIBUTES], 1).cpu()


def tally(answers: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return per attribute how many answers are as labelled, and how many were labelled (-1 is not)."""
    return ((answers == labels) & (labels >= 0)).sum(0).float(), (labels >= 0).sum(0).float()
