"""A finished job in a few lines for people."""

from __future__ import annotations

from pathlib import Path

from common.schemas import Job


def receipt_of(job: Job, path: Path) -> str:
    """Return what was drawn, how long each stage took, what it cost and where it is."""
    spec, clip = job.request, job.clip
    assert clip is not None
    stages = job.timings.model_dump(exclude_none=True)
    total_s = stages.pop("total_s", None)
    seconds = " · ".join(f"{name.removesuffix('_s')} {value:.2f} s" for name, value in stages.items())
    lines = [
        f"{path}  {clip.width}x{clip.height}, {clip.num_frames} frames, {clip.duration_s:g} s, {clip.size_bytes:,} bytes",
        f"drawn   {spec.recipe}@{spec.model_revision}, {spec.num_inference_steps} steps, seed {spec.seed}"
        + (f", start {job.start_kind}" if job.start_kind else ""),
        f"took    {seconds}" + (f" · total {total_s:.2f} s" if total_s is not None else ""),
    ]
    if job.cost is not None:
        lines.append(f"cost    ${job.cost.usd:.4f} ({job.cost.basis})")
    lines.append(f"job     {job.job_id}")
    return "\n".join(lines)
