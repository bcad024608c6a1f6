"""The clock, the memory, the float32 references and the result file of the engine's benchmark."""

from __future__ import annotations

import gc
import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anime_studio.engine.decoder.streaming import StreamingDecoder
from benchmarks import card_in
from benchmarks.engine.sides import Diffusers, Work
from training.commit import commit

GIB = 1024**3
STAGES = ("text_s", "denoise_forward_s", "decode_s", "encode_s", "total_s")


class Bench:
    """One run: what is measured, where it is written, and when it must end."""

    def __init__(self, work: Work, runs: int, deadline_s: float, out: Path) -> None:
        self.work, self.runs, self.out = work, runs, out
        self.end = time.monotonic() + deadline_s
        self.cuda = work.components.device.type == "cuda"
        self.result: dict[str, Any] = {
            **machine_and_versions(work.components.device),
            "shape": f"{work.spec().native_width}x{work.spec().native_height}, {work.spec().num_frames} frames",
            "runs": runs,
            "stages": {stage: {} for stage in STAGES},
            "peak_gib": {},
            "relative_l2": {},
            "options": [],
        }

    def seconds(self, make: Callable[[], Callable[[], Any]], *, warm_ups: int = 2) -> float:
        """Return the median seconds of what *make* returns; *make* prepares fresh inputs outside the clock."""
        times = []
        for index in range(warm_ups + self.runs):
            act = make()
            self.wait()
            begun = time.perf_counter()
            result = act()  # bound, so that freeing it is not timed
            self.wait()
            times.append(time.perf_counter() - begun)
            del result
            if index >= warm_ups and time.monotonic() > self.end:
                break
        return statistics.median(times[warm_ups:])

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.cuda:
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        """Free cached memory, and begin a new peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def gib(self, *, peak: bool) -> float:
        """Return GiB taken from the device, now or at the peak; CUDA graphs hold some that no tensor shows."""
        if not self.cuda:
            return 0.0
        return (torch.cuda.max_memory_reserved() if peak else torch.cuda.memory_reserved()) / GIB

    def write(self) -> None:
        """Write what is known so far; a tiny shape's times are no result."""
        if not self.cuda:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"engine_{card_in(self.result)}.json").write_text(
            json.dumps(self.result, indent=2) + "\n", encoding="utf-8"
        )


@dataclass
class Reference:
    """One input for each stage and what float32 weights make of it."""

    latents: torch.Tensor
    embeddings: torch.Tensor
    prompt: str
    text: torch.Tensor
    velocity: torch.Tensor
    frames: torch.Tensor


@torch.inference_mode()
def reference(work: Work) -> Reference:
    """Compute the references, without TF32, which cuDNN's convolutions use by default."""
    torch.backends.cudnn.allow_tf32 = False
    plain = Diffusers(work)
    latents, embeddings, prompt = work.latents(), work.embeddings(), work.prompt()
    truth = Reference(
        latents=latents,
        embeddings=embeddings,
        prompt=prompt,
        text=plain.text(prompt).cpu(),
        velocity=plain.forward(latents, embeddings)().cpu(),
        frames=plain.decode_raw(latents)[0].permute(1, 0, 2, 3).cpu(),
    )
    torch.backends.cudnn.allow_tf32 = True
    return truth


def relative_l2(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return |ours - theirs| / |theirs|, in float64 on the CPU."""
    exact = theirs.detach().cpu().double()
    return float((ours.detach().cpu().double() - exact).norm() / exact.norm())


def bound(act: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    """Return a function that calls *act* with what was given."""
    return lambda: act(*given)


def all_frames(decoder: StreamingDecoder, latents: torch.Tensor) -> torch.Tensor:
    """Return every frame of a clip, float32 on the CPU: (n, 3, height, width)."""
    return torch.cat([group.float().cpu() for group in decoder.decode(latents)])


def machine_and_versions(device: torch.device) -> dict[str, Any]:
    """Return what a result must name: device, date, commit and versions."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "capability": torch.cuda.get_device_capability(device) if cuda else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "versions": {
            name: version(name)
            for name in ("torch", "triton", "diffusers", "transformers", "av")
            if importlib.util.find_spec(name)
        }
        | {"python": platform.python_version(), "cudnn": torch.backends.cudnn.version() if cuda else None},
    }
