"""What a clip should take and cost, from the clips of its size that this deployment made last; else by projection.

A form shows it before anyone presses the button. Refusals use measured seconds alone (`Studio.submit`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from anime_studio.core.decoders import Decoder
from anime_studio.core.jobs import JobRecord
from anime_studio.core.pricing import Machine
from anime_studio.core.projection import CARDS, project
from anime_studio.core.recipes import Recipe
from common.schemas import JobState, Resolution, StartKind


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one clip; None where nothing is known.

    Attributes:
        clip_s: Seconds from the prompt to the stored clip, by a worker that is ready.
        usd: Dollars for these seconds.
        wake_s: Seconds until a worker that is asleep is ready.
        projected: Nothing was measured here yet: seconds and dollars are carried over from another card.
    """

    clip_s: float | None
    usd: float | None
    wake_s: float | None
    projected: bool = False


def estimate(
    recent: Sequence[JobRecord],
    recipe: Recipe,
    machine: Machine,
    decoder: Decoder,
    resolution: Resolution,
) -> Estimate:
    """Return the estimate of a clip of *resolution* from *recent*, the jobs that ended last, newest first.

    Clips of as many pixels alone count, whichever way up they are: 1080p takes longer than 480p.
    """
    clips = [
        job.timings
        for job in recent
        if job.state is JobState.SUCCEEDED
        and job.spec.recipe == recipe.name
        and job.spec.resolution.landscape is resolution.landscape
    ]
    woken = [
        job.timings.start_s
        for job in recent
        if job.start_kind not in (None, StartKind.WARM) and job.timings.start_s
    ]
    wake_s = statistics.median(woken) if woken else None
    if clips:
        clip_s = statistics.median(timings.busy_s for timings in clips)
        return Estimate(clip_s, clip_s * machine.usd_per_s(), wake_s)
    if machine.gpu_type in CARDS and recipe.repo_id is not None:
        projected = project(recipe, machine, decoder=decoder, resolution=resolution)
        return Estimate(projected.total_s, projected.usd, wake_s, projected=True)
    return Estimate(None, 0.0 if machine.gpu is None else None, wake_s)


def seconds_of(clips: Sequence[Estimate]) -> float | None:
    """Return the seconds that *clips* should take, one after the other; None if one of them is unknown."""
    seconds = [clip.clip_s for clip in clips if clip.clip_s is not None]
    return sum(seconds) if len(seconds) == len(clips) else None
