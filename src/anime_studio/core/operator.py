"""The operator's use cases: see whose prompt is drawn, and cancel, clear, hide, pause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from anime_studio.core.errors import ClipGoneError, JobNotFoundError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.studio import Studio
from common.operator import ChannelView, OperatorAction, OperatorJob, OperatorVerb, OperatorView
from common.schemas import JobState

LAST_ENDED: Final = 20
"""Ended jobs that the operator sees."""


class Operator:
    """One operator of a studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._jobs = studio.jobs

    async def view(self, channels: Sequence[ChannelView], expired_links: int, base_url: str) -> OperatorView:
        """Return the show now; *channels* and *expired_links* are what the web process has counted."""
        jobs = [*await self._jobs.open_jobs(), *await self._jobs.finished_since(None, LAST_ENDED)]
        hidden = await self._jobs.show.hidden(jobs)
        return OperatorView(
            now=self._studio.clock.now(),
            paused=await self._jobs.show.paused(),
            readiness=await self._studio.readiness(),
            spend=await self._studio.spend(),
            jobs=[await self._seen(job, base_url, is_hidden=job.clip_id in hidden) for job in jobs],
            channels=list(channels),
            expired_links=expired_links,
        )

    async def act(self, act: OperatorAction) -> int:
        """Do what *act* says; return how many jobs or clips it concerned.

        Raises:
            JobNotFoundError, ClipGoneError: There is no such job, or no ended job with such a clip.
        """
        if act.action in (OperatorVerb.PAUSE, OperatorVerb.RESUME):
            await self._jobs.show.pause(paused=act.action is OperatorVerb.PAUSE)
            return 0
        if act.action in (OperatorVerb.HIDE, OperatorVerb.SHOW):
            await self._place(act)
            return 1
        jobs = await self._named(act)
        for job in jobs:
            await self._studio.cancel(job.job_id, by="the operator")
        return len(jobs)

    async def _named(self, act: OperatorAction) -> Sequence[JobRecord]:
        if act.job_id is not None:
            job = await self._jobs.get(act.job_id)
            if job is None:
                raise JobNotFoundError("no job has this id; records are kept for a limited time")
            return [] if job.state.final else [job]
        open_jobs = await self._jobs.open_jobs()
        if act.action is OperatorVerb.CLEAR:
            return [job for job in open_jobs if job.state is JobState.QUEUED]
        name = (act.requested_by or "").casefold()
        return [job for job in open_jobs if (job.requested_by or "").casefold() == name]

    async def _place(self, act: OperatorAction) -> None:
        assert act.clip_id is not None, "the contract demands it"
        open_jobs = await self._jobs.open_jobs()
        job = next((job for job in open_jobs if job.clip_id == act.clip_id), None)
        job = job or await self._jobs.of_clip(act.clip_id)
        if job is None:
            raise ClipGoneError(f"clip {act.clip_id} is not known; its job may have been swept")
        if act.action is OperatorVerb.HIDE:
            await self._jobs.show.hide(job)
        else:
            await self._jobs.show.show(job, self._studio.clock.now(), even_hidden=True)

    async def _seen(self, job: JobRecord, base_url: str, *, is_hidden: bool) -> OperatorJob:
        clip = (await self._studio.present(job, base_url)).clip if job.clip is not None else None
        now = self._studio.clock.now()
        usd = None if job.cost is None else job.cost.usd
        if job.state is JobState.RUNNING and job.started_at is not None:
            held_s = max(0.0, (now - job.started_at).total_seconds())
            usd = held_s * self._studio.policy.machine.usd_per_s()
        return OperatorJob(
            **job.model_dump(
                include={
                    "job_id",
                    "clip_id",
                    "request_id",
                    "state",
                    "stage",
                    "progress",
                    "requested_by",
                    "source",
                    "channel",
                }
            ),
            prompt=job.spec.prompt,
            hidden=is_hidden,
            url=None if clip is None else clip.url,
            age_s=max(0.0, (now - job.created_at).total_seconds()),
            usd=usd,
            error_code=None if job.error is None else job.error.code,
        )
