"""The upscaler at full shape with random weights: seconds by batch, plain and compiled, memory, error.

The network has realesr-animevideov3's shape: 16 convolutions of 64 features, scale 4. Its clip is noise of 81 frames of
832x480, which come in groups as the full decoder gives them; seconds are the median until the last large frame is in the
memory of the device. The error is relative L2 of one batch against the plain network in float32.

    python -m benchmarks.engine.upscaling [--runs 5] [--tiny] [--out benchmarks/results]

`--tiny`, or no GPU, takes small shapes, which shows that the benchmark runs; it writes no result.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anime_studio.engine.acceleration import PLAIN, Acceleration
from anime_studio.engine.upscaling import Upscaler, UpscalerConfig, UpscalingStage
from benchmarks import card_in
from benchmarks.engine.bench import machine_and_versions, relative_l2

GIB = 1024**3
BATCHES = (1, 4, 9)
COMPILED = Acceleration(compile_upscaler=True)


@dataclass(frozen=True)
class Shape:
    """What is measured: the network, and the frames that go in."""

    network: UpscalerConfig
    frames: int
    small: tuple[int, int]


FULL = Shape(UpscalerConfig(64, 16, 4), 81, (832, 480))
TINY = Shape(UpscalerConfig(8, 2, 4), 19, (24, 16))


def random_upscaler(config: UpscalerConfig, device: torch.device) -> Upscaler:
    """Return a network in float32 in which signals keep their size, so that its last layer is no detail of the sum."""
    torch.manual_seed(0)
    upscaler = Upscaler(config).to(device).eval().requires_grad_(False)
    for layer in upscaler.body:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.25)
    return upscaler


class Bench:
    """The network on one device, and what was measured of it."""

    def __init__(self, shape: Shape, device: torch.device, runs: int) -> None:
        self.shape, self.device, self.runs = shape, device, runs
        exact = random_upscaler(shape.network, device)
        width, height = shape.small
        self.clip = torch.rand(shape.frames, 3, height, width, device=device) * 2 - 1
        self.truth = _joined(UpscalingStage(copy.deepcopy(exact)), self.clip[:9])
        on_gpu = device.type == "cuda"
        self.upscaler = exact.to(torch.float16 if on_gpu else torch.float32)
        self.clip = self.clip.to(torch.bfloat16 if on_gpu else torch.float32)  # as the VAE gives it
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, acceleration: Acceleration, batch: int) -> None:
        """Measure one way to run the network."""
        stage = UpscalingStage(self.upscaler, acceleration, batch=batch)
        row: dict[str, Any] = {"path": name, "batch": batch}
        begun = time.perf_counter()
        self._drain(stage)
        row["first_clip_s"] = time.perf_counter() - begun
        before_bytes = self._begin_peak()
        row["clip_s"] = statistics.median(_seconds(self._drain, stage) for _ in range(self.runs))
        if self.device.type == "cuda":
            row["peak_gib"] = (torch.cuda.max_memory_allocated() - before_bytes) / GIB
        row["relative_l2"] = relative_l2(_joined(stage, self.clip[:9]), self.truth)
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def _drain(self, stage: UpscalingStage) -> None:
        for _ in stage.frames(_groups(self.clip)):
            pass
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _begin_peak(self) -> int:
        gc.collect()
        if self.device.type != "cuda":
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()


def _groups(clip: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield frames as the full decoder does: one, then eight at a time."""
    yield clip[:1]
    yield from torch.split(clip[1:], 8)


def _joined(stage: UpscalingStage, clip: torch.Tensor) -> torch.Tensor:
    return torch.cat([batch.float().cpu() for batch in stage.frames([clip])])


def _seconds(act: Callable[..., Any], *given: Any) -> float:
    begun = time.perf_counter()
    act(*given)
    return time.perf_counter() - begun


@torch.inference_mode()
def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = TINY if asked.tiny or device.type == "cpu" else FULL
    torch.backends.cudnn.allow_tf32 = False  # which the reference in float32 would use by itself
    bench = Bench(shape, device, asked.runs)
    for batch in BATCHES:
        bench.add("plain", PLAIN, batch)
        bench.add("compiled", COMPILED, batch)
    torch.backends.cudnn.benchmark = True
    bench.add("compiled, cuDNN's search", COMPILED, BATCHES[-1])
    result = {
        **machine_and_versions(device),
        "cores": len(os.sched_getaffinity(0)),
        "shape": f"{shape.frames} frames of {shape.small[0]}x{shape.small[1]}, {shape.network}",
        "runs": asked.runs,
        "upscaling": bench.rows,
    }
    result["commit"] = asked.commit or result["commit"]
    if shape is FULL:
        asked.out.mkdir(parents=True, exist_ok=True)
        path = asked.out / f"upscaling_{card_in(result)}.json"
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
