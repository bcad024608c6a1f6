"""Job records and clips' plans, for tests that need one."""

from datetime import UTC, datetime, timedelta

from anime_studio.core.clip import plan
from anime_studio.core.jobs import JobRecord, StoredClip
from anime_studio.core.pricing import UNBILLED, receipt
from anime_studio.core.recipes import TINY_RANDOM
from common.schemas import GenerateRequest, Timings

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class HandClock:
    """Stands still until the test moves it."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> datetime:
        self._now += timedelta(seconds=seconds)
        return self._now


def new_job(prompt: str = "a cat on a roof", *, created_at: datetime = NOON, **changes: object) -> JobRecord:
    """Return a queued job of the tiny recipe."""
    request = GenerateRequest(prompt=prompt, duration=1)
    spec = plan(request, TINY_RANDOM, model_revision="random-0", seed=7)
    job = JobRecord.submitted(request, spec, request_id="r_test", now=created_at)
    return job.model_copy(update=changes)


def succeeded(job: JobRecord, now: datetime = NOON) -> JobRecord:
    """Return the end of a running job, with a clip that has no files."""
    clip = StoredClip(
        clip_id=job.clip_id,
        size_bytes=1,
        sha256="0" * 64,
        poster_size_bytes=1,
        poster_sha256="1" * 64,
        width=48,
        height=32,
        num_frames=17,
        fps=16,
    )
    timings = Timings(start_s=0.1, text_s=0.1, denoise_s=1.0, decode_s=0.5, store_s=0.1, total_s=1.8)
    return job.succeeded(clip, timings, receipt(timings, UNBILLED), now)
