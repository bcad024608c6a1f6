"""Ends jobs whose deadline has passed, whatever their worker does.

The server counts each deadline down with the monotonic clock from the job's acceptance, so a moved clock neither
ends a job nor lets it live on. Only a server that finds the job at its start has to believe the clock.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Self

import structlog

from anime_studio.core.errors import StorageError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.ports import Clock
from anime_studio.on_laptop.job_store import SqliteJobs
from anime_studio.telemetry import LogEvent, log_job

LOOK_EVERY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class Deadlines:
    """Watches the deadlines of open jobs, from `async with` to its end."""

    def __init__(self, jobs: SqliteJobs, clock: Clock, *, log_prompts: bool = False) -> None:
        self._jobs = jobs
        self._clock = clock
        self._log_prompts = log_prompts
        self._due_at: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="deadlines")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    def note(self, job: JobRecord) -> None:
        """Count down a job that was accepted now; one that an earlier server accepted is found by itself."""
        left_s = job.seconds_left(job.created_at)
        if left_s is not None:
            self._due_at.setdefault(job.job_id, time.monotonic() + left_s)

    async def _watch(self) -> None:
        while True:
            try:
                await self._end_due_jobs()
            except StorageError as error:
                _log.warning(LogEvent.DEADLINES_INTERRUPTED, detail=error.detail)
            except Exception:  # noqa: BLE001  the watch must outlive any fault
                _log.exception(LogEvent.DEADLINES_INTERRUPTED)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _end_due_jobs(self) -> None:
        noted = set(self._due_at)
        open_jobs = {job.job_id: job for job in await self._jobs.with_deadline()}
        for job_id in noted - open_jobs.keys():
            del self._due_at[job_id]
        wall, now_s = self._clock.now(), time.monotonic()
        for job_id, job in open_jobs.items():
            self._due_at.setdefault(job_id, now_s + (job.seconds_left(wall) or 0.0))
        for job_id in [job_id for job_id, at in self._due_at.items() if at <= now_s]:
            ended = await self._jobs.end_at_deadline(job_id, wall)
            if ended is not None:
                log_job(ended, log_prompts=self._log_prompts)
