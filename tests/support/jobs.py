"""Job records and clips' plans, for tests that need one."""

from datetime import UTC, datetime, timedelta

from anime_studio.core.clip import plan
from anime_studio.core.jobs import JobRecord
from anime_studio.core.recipes import TINY_RANDOM
from common.schemas import GenerateRequest

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
