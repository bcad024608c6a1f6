"""Stage `evaluate_upscaler`: how much sharper, how near to the truth, and how steady are the larger frames?

Held-out rendered clips say how near: each goes through the VAE and is made larger by the network and by bicubic
interpolation. `psnr_small_db` is the VAE's own error, which the larger frame inherits. Generated clips, for which there
is no truth, say how sharp and how steady: the network beside bicubic interpolation, which is how the video encoder makes
frames larger without it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from anime_studio.checkpoints.pipeline_files import UPSCALER, UPSCALER_WEIGHTS
from anime_studio.engine.upscaling import CPU_BATCH, Upscaler, read_upscaler
from training.config import STUDENT_STEPS, Scale
from training.evaluate import SEED, Way, generate
from training.machine import Machine
from training.report import measured_on, save_json, save_sheet
from training.upscaler_pairs import Source
from training.world.held_out import write_held_out_prompts
from training.world.render import render

FRAMES = 33
"""Of each held-out clip that is compared with its truth."""
SHOWN, SHOWN_FRAME, CROP = 10, 40, (320, 224)
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue: Rec. ITU-R BT.601."""
STEEP_SHARE = 0.05
"""Share of pixels whose mean slope is `slope_ratio`'s measure: those of the lines and outlines."""
SOFT_SLOPE = 0.03
"""Change of luma from pixel to pixel below which a place is soft: lines and outlines are far above."""
_SSIM_CONSTANTS = (0.01**2, 0.03**2)
"""For pictures in [0, 1]. Source: Wang et al., 2004, "Image quality assessment", with a Gaussian window of 11 and 1.5."""
_ON_CPU_THREADS = 2


def evaluate_upscaler(machine: Machine, scale: Scale, state: Path, results: Path) -> dict[str, Any]:
    """Measure the upscaler in *state*; write `upscaler.json` and the sheet `upscaler.png` into *results*.

    What viewers preferred (`preferred_of_ten`, see `training.blind_pairs`) is kept from the file that is there.
    """
    upscaler = read_upscaler(state / UPSCALER).to(machine.device)
    table: dict[str, Any] = _against_truth(machine, scale, state, upscaler)
    table |= _against_bicubic(machine, scale, state, upscaler, results / "upscaler.png")
    table["seconds_on_2_cores"] = round(_seconds(scale, state), 3)
    table["weights_bytes"] = (state / UPSCALER / UPSCALER_WEIGHTS).stat().st_size
    path = results / "upscaler.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table["preferred_of_ten"] = before.get("preferred_of_ten")
    table["measured_on"] = measured_on(machine.device)
    save_json(path, table)
    machine.log(f"upscaler: {table}")
    return table


def bicubic(small: torch.Tensor, times: int) -> torch.Tensor:
    """Return frames (n, 3, height, width) in [0, 1], *times* as large."""
    return F.interpolate(small, scale_factor=times, mode="bicubic", align_corners=False).clamp(0, 1)


def psnr_db(given: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the PSNR of frames in [0, 1], in dB."""
    return float(-10 * torch.log10((given - truth).square().mean()))


def ssim(given: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the mean structural similarity of the luma of frames (n, 3, height, width) in [0, 1]."""
    x, y = luma(given), luma(truth)
    offsets = torch.arange(11, device=x.device) - 5.0
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum().square())[None, None]

    def mean(picture: torch.Tensor) -> torch.Tensor:
        return F.conv2d(picture, window)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x.square(), mean(y * y) - mean_y.square()
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = _SSIM_CONSTANTS
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity.mean())


def sharpness(frames: torch.Tensor) -> float:
    """Return the Tenengrad measure of frames (n, 3, height, width): the mean squared Sobel slope of the luma.

    Source: Krotkov, 1988, "Focusing"; Pertuz et al., 2013, "Analysis of focus measure operators" (GRA6).
    """
    return float(_slopes(frames).square().mean())


def steepness(frames: torch.Tensor) -> float:
    """Return the mean Sobel slope of the luma at the steepest pixels of each of frames (n, 3, height, width)."""
    slopes = _slopes(frames).flatten(1)
    return float(slopes.topk(max(1, int(STEEP_SHARE * slopes.shape[1])), dim=1).values.mean())


def squares(frames: torch.Tensor, times: int) -> float:
    """Return how much squares of *times* by *times* pixels show in the soft places of frames (n, 3, height, width).

    The bend of the luma, its second difference, at the edges of these cells beside that inside them: about 1 for drawn
    frames, more where each pixel of the small frame shows as a square.
    """
    picture = luma(frames)
    both = torch.tensor([_bends(picture.transpose(-1, axis), times) for axis in (-1, -2)])
    at_edges, inside = both.sum(0).tolist()
    return float(at_edges / max(inside, 1e-9))


def _bends(picture: torch.Tensor, times: int) -> tuple[float, float]:
    """Return the mean bend along the last axis in soft places: at the edges of cells, and inside them."""
    slope, bend = picture.diff().abs(), picture.diff(n=2).abs()
    soft = slope[..., :-1].maximum(slope[..., 1:]) < SOFT_SLOPE
    place = torch.arange(1, bend.shape[-1] + 1, device=picture.device) % times  # of each pixel in its cell
    at_edge = (place == 0) | (place == times - 1)
    edge, inside = (
        float((bend * (soft & chosen)).sum() / (soft & chosen).sum().clamp(min=1))
        for chosen in (at_edge, ~at_edge)
    )
    return edge, inside


def _slopes(frames: torch.Tensor) -> torch.Tensor:
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=frames.device) / 8
    both = F.conv2d(luma(frames), torch.stack([sobel, sobel.T])[:, None])
    return both.square().sum(1).sqrt()


def flicker(frames: torch.Tensor) -> float:
    """Return the mean second difference in time of frames (n, 3, height, width)."""
    return float(frames.diff(n=2, dim=0).abs().mean())


def luma(frames: torch.Tensor) -> torch.Tensor:
    """Return (n, 1, height, width)."""
    weights = torch.tensor(LUMA, device=frames.device).view(1, 3, 1, 1)
    return (frames * weights).sum(1, keepdim=True)


@torch.no_grad()
def _against_truth(machine: Machine, scale: Scale, state: Path, upscaler: Upscaler) -> dict[str, float]:
    source = Source(machine, scale, state, upscaler.config.scale)
    frames = min(FRAMES, scale.frames)
    rows: list[dict[str, float]] = []
    for parameters, start_s, small in source.clips(
        scale.held_out_clips, SEED, held_out=True, frames=frames, redrawn=False
    ):
        size = (upscaler.config.scale * scale.height, upscaler.config.scale * scale.width)
        truth = render(parameters, frames, *size, start_s)[0, :3].transpose(0, 1).float() / 255
        by_network, by_bicubic = _both(upscaler, small)
        rows.append(
            {
                "psnr_bicubic_db": psnr_db(by_bicubic, truth),
                "psnr_db": psnr_db(by_network, truth),
                "ssim_bicubic": ssim(by_bicubic, truth),
                "ssim": ssim(by_network, truth),
                "psnr_small_db": psnr_db(small.float() / 255, _shrunk(truth, upscaler.config.scale)),
                "edge_ratio_of_truth": sharpness(truth) / sharpness(by_bicubic),
                "slope_ratio_of_truth": steepness(truth) / steepness(by_bicubic),
                "flicker_ratio_of_truth": flicker(truth) / flicker(by_bicubic),
                "squares_of_truth": squares(truth, upscaler.config.scale),
            }
        )
    return _means(rows)


@torch.no_grad()
def _against_bicubic(
    machine: Machine, scale: Scale, state: Path, upscaler: Upscaler, sheet: Path
) -> dict[str, float]:
    prompts = [caption.text for _, caption in write_held_out_prompts(max(SHOWN, scale.held_out_clips), SEED)]
    folder = "student" if (state / "student").exists() else "teacher"
    source = Source(machine, scale, state, upscaler.config.scale)
    clips = generate(
        machine, scale, source.vae, state / folder, Way("student", folder, STUDENT_STEPS), prompts
    )
    ratios: list[dict[str, float]] = []
    shown: list[torch.Tensor] = []
    for clip in clips:
        by_network, by_bicubic = _both(upscaler, clip.transpose(0, 1).to(machine.device))
        ratios.append(
            {
                "edge_ratio": sharpness(by_network) / sharpness(by_bicubic),
                "slope_ratio": steepness(by_network) / steepness(by_bicubic),
                "flicker_ratio": flicker(by_network) / flicker(by_bicubic),
                "squares": squares(by_network, upscaler.config.scale),
            }
        )
        if len(shown) < SHOWN:
            shown.append(_crops(by_bicubic, by_network))
    save_sheet(sheet, shown, prompts[:SHOWN])
    return _means(ratios)


def _both(upscaler: Upscaler, small: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return uint8 frames made larger by the network and by interpolation, float32 in [0, 1]."""
    levels = small.float() / 255
    by_network = torch.cat([upscaler(part).clamp(0, 1) for part in torch.split(levels, 16)])
    return by_network, bicubic(levels, upscaler.config.scale)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(row[name] for row in rows) / len(rows), 4) for name in rows[0]}


def _shrunk(large: torch.Tensor, times: int) -> torch.Tensor:
    """Return what a perfect VAE would have given: each pixel the mean of *times* by *times* of the truth."""
    return F.avg_pool2d(large, times)


def _crops(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the upper middle of one frame, at its own pixels: uint8 (2, 3, height, width), before and after."""
    index = min(SHOWN_FRAME, len(before) - 1)
    width, height = (min(side, limit) for side, limit in zip(CROP, before.shape[:1:-1], strict=True))
    left, top = (before.shape[3] - width) // 2, (before.shape[2] - height) // 4
    pair = torch.stack([before[index], after[index]])[:, :, top : top + height, left : left + width]
    return (pair * 255).round().to(torch.uint8)


def _seconds(scale: Scale, state: Path) -> float:
    """Return the seconds that a clip takes on two cores of this machine's CPU, as the engine draws it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(_ON_CPU_THREADS, threads))
    try:
        upscaler: Upscaler = read_upscaler(state / UPSCALER).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        group = torch.rand(CPU_BATCH, 3, scale.height, scale.width).contiguous(
            memory_format=torch.channels_last
        )
        with torch.inference_mode():
            upscaler(group)
            begun = time.perf_counter()
            for _ in range(scale.frames // CPU_BATCH):
                upscaler(group)
            return time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
