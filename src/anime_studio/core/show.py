"""The operator's summary and the recipe's card: pure functions over records.

Percentiles are by nearest rank (the smallest value with at least that share at or below it), so
each is the measured duration of some job. Cancelled jobs do not count in the success rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from anime_studio.core.clip import FRAMES_PER_LATENT
from anime_studio.core.jobs import JobRecord
from anime_studio.core.notes import ON_WEIGHTS
from anime_studio.core.recipes import Recipe
from common.schemas import GenerateRequest, JobState, Readiness, Resolution, SignalKind, StartKind, Timings
from common.show import Bounds, FinishedJob, Percentiles, RecentError, RecipeCard, ShowStatus, Size, Spend

STAGES = ("queue", "start", "text", "denoise", "decode", "upscale", "store", "total")
LAST_ERRORS = 5
SHORTEST_CLIP_S = 0.5
"""The least that a form offers, though a recipe may allow a single frame."""

_DEMO_EXAMPLES = [
    "a girl with long pink hair on a beach at sunset",
    "a boy waving at a red torii gate, sunny day",
    "a black kitten in a rainy city at night",
    "an orange cat running through a flower meadow",
    "a quiet lake and mountains under the stars, nobody",
]
_WAN_EXAMPLES = [
    "a girl with pink twintails waving on a beach",
    "a fox spirit walks through a snowy shrine",
    "a mecha pilot on a rainy rooftop at night",
    "a black cat watches a summer festival",
    "a train crosses a shallow sea under clouds",
]


def recipe_card(recipe: Recipe) -> RecipeCard:
    """Return what *recipe* accepts, as a form or a bot needs it."""
    longest_s = math.floor(recipe.max_frames / recipe.fps * 2) / 2
    shortest_s = max(SHORTEST_CLIP_S, math.ceil((recipe.min_frames - FRAMES_PER_LATENT) / recipe.fps * 2) / 2)
    if recipe.min_frames == recipe.max_frames:
        shortest_s = longest_s
    guidance = recipe.guidance_scale if recipe.guidance_scale is not None else 1.0
    return RecipeCard(
        name=recipe.name,
        summary=recipe.summary,
        model=recipe.repo_id or "ships with this package",
        model_revision=recipe.revision,
        license=recipe.license,
        sizes=[
            Size(resolution=resolution, width=resolution.size[0], height=resolution.size[1])
            for resolution in recipe.native_sizes
        ],
        duration_s=Bounds(
            minimum=shortest_s,
            maximum=longest_s,
            default=min(longest_s, float(GenerateRequest.model_fields["duration"].default)),
        ),
        num_inference_steps=Bounds(
            minimum=recipe.min_inference_steps,
            maximum=recipe.max_inference_steps,
            default=recipe.num_inference_steps,
        ),
        guidance_scale=Bounds(minimum=1, maximum=20, default=guidance) if recipe.accepts_guidance else None,
        examples=_WAN_EXAMPLES if recipe.composes_prompts else _DEMO_EXAMPLES,
        world=recipe.world,
        paths=recipe.paths,
    )


def summarise(
    jobs: Sequence[JobRecord],
    *,
    now: datetime,
    window: timedelta,
    limit: int,
    readiness: Readiness,
    spend: Spend,
    signals: Mapping[SignalKind, int],
    recipe: str,
    decoder: str = "full",
    version: str,
    uptime_s: float,
    list_jobs: int = 0,
) -> ShowStatus:
    """Return the operator's summary.

    Args:
        jobs: Final jobs of the window, newest first, at most *limit*.
        now: Aware UTC time.
        window: How far the jobs go back.
        limit: As many jobs as were asked of the store; reaching it means there may be more.
        readiness: From the launcher, with the backlog.
        spend: What was spent today and this month, and the budgets.
        signals: What clients reported in the window.
        recipe: Name of the deployment's recipe.
        decoder: What decodes its clips.
        version: Version of the service.
        uptime_s: Seconds since the process began.
        list_jobs: How many jobs to list in full.
    """
    by_state = Counter(job.state for job in jobs)
    succeeded, failed = by_state[JobState.SUCCEEDED], by_state[JobState.FAILED]
    newest = next((job for job in jobs if job.state is JobState.SUCCEEDED), None)
    starts = Counter(job.start_kind for job in jobs if job.start_kind is not None)
    stages_by_size = _stages_by_size(jobs)
    return ShowStatus(
        now=now,
        window_s=window.total_seconds(),
        version=version,
        recipe=recipe,
        decoder=decoder,
        paths=newest.paths if newest else (),
        model_revision=newest.spec.model_revision if newest else None,
        weights_note=next((note.detail for note in newest.notes if note.code in ON_WEIGHTS), None)
        if newest
        else None,
        uptime_s=uptime_s,
        readiness=readiness,
        finished=len(jobs),
        succeeded=succeeded,
        failed=failed,
        cancelled=by_state[JobState.CANCELLED],
        success_rate=succeeded / (succeeded + failed) if succeeded + failed else None,
        truncated=len(jobs) >= limit,
        cold_starts=sum(starts.values()) - starts[StartKind.WARM],
        starts=dict(starts),
        stages=next(iter(stages_by_size.values()), {}),
        stages_by_size=stages_by_size,
        spend=_spend(jobs, succeeded, spend),
        signals=dict(signals),
        fallbacks=signals.get(SignalKind.FALLBACK_PLAYED, 0),
        errors=[error for job in jobs if (error := _recent_error(job)) is not None][:LAST_ERRORS],
        jobs=[line for job in jobs[:list_jobs] if (line := _finished_job(job)) is not None],
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of *values* (at least one), *share* from 0 to 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _stages_by_size(jobs: Sequence[JobRecord]) -> dict[Resolution, dict[str, Percentiles]]:
    """Return the percentiles of each size apart: a median over 480p and 1080p would be of neither."""
    succeeded = [job for job in jobs if job.state is JobState.SUCCEEDED]
    sizes = Counter(job.spec.resolution.landscape for job in succeeded)
    return {
        size: _stages([job.timings for job in succeeded if job.spec.resolution.landscape is size])
        for size, _ in sizes.most_common()
    }


def _stages(clips: Sequence[Timings]) -> dict[str, Percentiles]:
    measured = {stage: _seconds(clips, stage) for stage in STAGES}
    return {
        stage: Percentiles(
            count=len(seconds), p50_s=percentile(seconds, 0.50), p95_s=percentile(seconds, 0.95)
        )
        for stage, seconds in measured.items()
        if seconds
    }


def _seconds(timings: Sequence[Timings], stage: str) -> list[float]:
    values = (getattr(timing, f"{stage}_s") for timing in timings)
    return [value for value in values if value is not None]


def _spend(jobs: Sequence[JobRecord], succeeded: int, spend: Spend) -> Spend:
    budget_usd = spend.budget_usd_per_clip
    usd = sum(job.cost.usd for job in jobs if job.cost is not None)
    usd_per_clip = usd / succeeded if succeeded else None
    return spend.model_copy(
        update={
            "usd": round(usd, 6),
            "usd_per_clip": None if usd_per_clip is None else round(usd_per_clip, 6),
            "budget_used": None if usd_per_clip is None or budget_usd is None else usd_per_clip / budget_usd,
        }
    )


def _recent_error(job: JobRecord) -> RecentError | None:
    if job.state is not JobState.FAILED or job.error is None or job.finished_at is None:
        return None
    # The detail of a failure may name the job for its owner; the summary is open to all.
    return RecentError(
        at=job.finished_at,
        request_id=job.request_id,
        code=job.error.code,
        detail=job.error.detail.replace(f"job {job.job_id}", "the job").replace(job.job_id, "the job"),
    )


def _finished_job(job: JobRecord) -> FinishedJob | None:
    if job.finished_at is None:
        return None
    return FinishedJob(
        request_id=job.request_id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        state=job.state,
        source=job.source,
        start_kind=job.start_kind,
        resolution=job.spec.resolution,
        timings=job.timings,
        cost=job.cost,
        error_code=None if job.error is None else job.error.code,
    )
