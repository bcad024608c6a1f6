"""The receipt of a finished job, a few lines for people."""

from __future__ import annotations

from pathlib import Path

from anime_studio.core.stage_words import STAGE_WORDS
from common.schemas import Job


def receipt_of(job: Job, path: Path) -> str:
    """Return the clip, the seconds of each stage, the cost and the job's id as text."""
    spec, clip = job.request, job.clip
    assert clip is not None
    stages = job.timings.model_dump(exclude_none=True)
    total_s = stages.pop("total_s", None)
    seconds = " · ".join(f"{_word(name)} {value:.2f} s" for name, value in stages.items())
    lines = [
        f"{path}  {clip.width}x{clip.height}, {clip.num_frames} frames, {clip.duration_s:g} s, {clip.size_bytes:,} bytes",
        f"drawn   {spec.recipe}@{spec.model_revision}, {spec.num_inference_steps} steps, decoder {spec.decoder}, seed {spec.seed}"
        + (f", start {job.start_kind}" if job.start_kind else ""),
        f"took    {seconds}" + (f" · {_word('total_s')} {total_s:.2f} s" if total_s is not None else ""),
    ]
    if job.requested_by is not None:
        lines.append(f"for     {job.requested_by}")
    if job.cost is not None:
        lines.append(f"cost    ${job.cost.usd:.4f} ({job.cost.basis})")
    if clip.watch_url is not None:
        lines.append(f"watch   {clip.watch_url}")
    lines += [f"note    {note.detail}" for note in job.notes]
    lines.append(f"job     {job.job_id}")
    return "\n".join(lines)


def _word(timing: str) -> str:
    return STAGE_WORDS[timing.removesuffix("_s")].lower()
