"""The use cases: submit, wait, read, follow, cancel.

A `Studio` knows jobs, recipes and links, but not HTTP, SQLite, Modal or torch. Laptop and Modal
use the same class, each with its own store, launcher and clip reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from anime_studio.core.clip import native_size, new_seed, plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import (
    AnimeStudioError,
    BudgetSpentError,
    ClipGoneError,
    ClipHiddenError,
    DeadlineUnmeetableError,
    JobCancelledError,
    JobNotFoundError,
    OrdersPausedError,
    QueueFullError,
)
from anime_studio.core.estimate import Estimate, estimate, seconds_of
from anime_studio.core.jobs import Asset, ChannelPage, ClipFile, Ended, IdempotencyKey, JobRecord, StoredClip
from anime_studio.core.notes import notes_on
from anime_studio.core.plain_text import without_folders
from anime_studio.core.policy import Policy
from anime_studio.core.ports import ClipReader, Clock, JobStore, Launcher
from anime_studio.core.projection import refuse_over_budget
from anime_studio.core.prompts import canonical
from anime_studio.core.readiness import not_ready, refuse_if_blocked
from anime_studio.core.recipes import Recipe
from anime_studio.core.signing import ClipLink, UrlSigner, WatchLink
from anime_studio.core.spend import refuse_if_spent, spent_by_day, today_and_month
from common.schemas import Clip, GenerateRequest, Job, JobState, Links, Progress, Readiness, Resolution
from common.show import Spend

ESTIMATE_FROM_JOBS = 50
"""The median duration of the clips of its size among so many jobs, the last that ended, is a clip's estimate."""

MOST_UPCOMING = 20
MOST_COUNTED = 100_000
"""Ended jobs whose cost is added up for a day's and a month's budget."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the ids that tie a job to its request."""

    request_id: str
    traceparent: str | None = None
    idempotency_key: str | None = None


class Studio:
    """One deployment: a recipe, a job store, a launcher, a clip reader and a signer."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        jobs: JobStore,
        launcher: Launcher,
        clips: ClipReader,
        signer: UrlSigner,
        policy: Policy,
        clock: Clock | None = None,
    ) -> None:
        self.recipe = recipe
        self.policy = policy
        self.clock = clock or SystemClock()
        self.jobs = jobs
        self._launcher = launcher
        self._clips = clips
        self._signer = signer

    async def submit(self, request: GenerateRequest, caller: Caller) -> JobRecord:
        """Store a job for *request* and launch it, or refuse it before any GPU wakes.

        Raises:
            UnsupportedByRecipeError: The recipe cannot render it.
            ReportedError: No worker can render it until a person has run the command in the detail.
            QueueFullError: As many jobs are queued as the policy allows.
            BudgetExceededError: It is projected to cost more than the budget for one clip.
            OrdersPausedError, BudgetSpentError: No jobs are taken for now.
            DeadlineUnmeetableError: It could not be ready in time.
            IdempotencyConflictError: The key belongs to another body.
            StorageError: The job could not be stored; it does not exist.
            UnavailableError: No worker could be asked. With an idempotency key, the same call asks again.
        """
        job = self._new_job(request, caller)
        idempotency = _fingerprint(request, caller)
        if idempotency is None or await self.jobs.find_idempotent(idempotency) is None:
            refuse_over_budget(job.spec, self.recipe, self.policy.machine, self.policy.budget_usd_per_clip)
            await self._refuse_early(request)
        most = self.policy.max_queued_jobs
        try:
            stored = await self.jobs.add(job, idempotency, max_queued=most)
        except QueueFullError:  # others came between the early look and now
            raise _queue_full(most, await self._seconds_until_ready(request.resolution)) from None
        if not stored.state.final:
            await self._launch(stored, may_be_retried=idempotency is not None)
        return stored

    async def get(self, job_id: str) -> JobRecord:
        """Return the job's newest version.

        Raises:
            JobNotFoundError: There is none, or its record was swept.
        """
        job = await self.jobs.get(job_id)
        if job is None:
            raise _no_job()
        return job

    async def wait(self, job_id: str, timeout_s: float) -> JobRecord:
        """Return the job once it is final, or as it stands after *timeout_s*."""
        newest = await self.get(job_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                async for job in self.jobs.changes(job_id, after=newest.version):
                    newest = job
        return newest

    async def follow(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """Yield the job's versions above *after*, until its end.

        Raises:
            JobNotFoundError: There is none.
        """
        await self.get(job_id)
        async for job in self.jobs.changes(job_id, after=after):
            yield job

    async def cancel(self, job_id: str, *, by: str = "its owner") -> JobRecord:
        """End a queued job at once; a running one stops at its next step. A final job does not change."""
        job = await self.get(job_id)
        error = JobCancelledError(f"job {job_id} was cancelled by {by}").problem(job.request_id)
        after = await self.jobs.cancel(job_id, error, self.clock.now())
        if after is None:
            raise _no_job()
        if not job.state.final:
            await self._launcher.stop(after)
        return after

    async def delete_clip(self, job_id: str, timeout_s: float) -> JobRecord:
        """Stop the job if it still runs, waiting at most *timeout_s*, and delete its clip; its record stays.

        Returns:
            The job; if it is not final, it did not stop in time and nothing was deleted.

        Raises:
            JobNotFoundError: There is none.
            StorageError: The clip could not be deleted.
        """
        await self.cancel(job_id)
        job = await self.wait(job_id, timeout_s)
        if job.clip is not None:
            await self._clips.remove(job.clip.clip_id)
        return job

    async def show_clip(self, job_id: str) -> JobRecord:
        """Put a job's held clip on its channel, before its end as soon as it has ended.

        Raises:
            JobNotFoundError: There is none.
        """
        job = await self.get(job_id)
        await self.jobs.show.show(job, self.clock.now(), even_hidden=False)
        return job

    async def has_clip(self, job: JobRecord) -> bool:
        """Whether the job's clip is still in storage."""
        return job.clip is not None and await self._clips.find(job.clip.clip_id) is not None

    async def warm(self) -> Readiness:
        """Ask for a worker to be made ready, and return the readiness now.

        Raises:
            UnavailableError: No worker can be asked now.
        """
        await self._launcher.warm()
        return await self.readiness()

    async def readiness(self, resolution: Resolution | None = None) -> Readiness:
        """Return whether a new job would be rendered, and how soon its clip would be ready.

        Args:
            resolution: Of the clip; None for the first that the recipe offers.

        Raises:
            UnsupportedByRecipeError: The recipe offers no clip of *resolution*.
        """
        resolution = resolution or next(iter(self.recipe.native_sizes))
        native_size(resolution, self.recipe)
        readiness, backlog = await self._launcher.readiness(), await self.jobs.backlog()
        if readiness.problem is None:
            try:
                await self._refuse_new(resolution)
            except (OrdersPausedError, BudgetSpentError) as error:
                readiness = not_ready(error).model_copy(update={"progress_age_s": readiness.progress_age_s})
        *ahead, one = await self._estimates(*await self._resolutions_ahead(), resolution)
        return readiness.model_copy(
            update={
                "detail": without_folders(readiness.detail),
                "queued": backlog.queued,
                "running": backlog.running,
                "eta_s": seconds_of([*ahead, one]),
                "usd_per_clip": None if one.usd is None else round(one.usd, 6),
                "wake_s": one.wake_s,
                "projected": any(each.projected for each in (*ahead, one)),
            }
        )

    async def present(self, job: JobRecord, base_url: str) -> Job:
        """Return the wire form of *job*, with fresh signed links under *base_url*."""
        clip = job.clip if await self.has_clip(job) else None
        position = await self.jobs.queue_position(job)
        progress = job.progress
        if job.state is JobState.QUEUED and position is not None:
            eta_s = await self._seconds_until_ready(job.spec.resolution, position)
            progress = Progress(total_steps=job.spec.num_inference_steps, eta_s=eta_s)
        return Job(
            **job.model_dump(include=_SAME_IN_BOTH, exclude_none=False),
            progress=progress,
            request=job.spec,
            clip=clip and self._with_links(job, clip, base_url),
            queue_position=position,
            links=Links(self=f"{base_url}/jobs/{job.job_id}", events=f"{base_url}/jobs/{job.job_id}/events"),
        )

    async def channel_clips(self, channel: str, after: int | None) -> ChannelPage:
        """Return a channel's clips above the sequence number *after*, oldest first; without one, the newest."""
        return await self.jobs.channel_clips(channel, after)

    async def hidden_on(self, channel: str) -> Sequence[str]:
        """Return the ids of the channel's clips that are kept off it, the last ones."""
        return await self.jobs.show.hidden_on(channel)

    async def upcoming(self, channel: str) -> Sequence[JobRecord]:
        """Return the channel's jobs that have not ended, the next one first; not those that are held."""
        return [job for job in await self.jobs.open_jobs() if job.channel == channel and not job.hold][
            :MOST_UPCOMING
        ]

    async def ended_since(self, since: datetime, limit: int = 1000) -> Sequence[JobRecord]:
        """Return jobs that ended at or after *since*, newest first."""
        return await self.jobs.finished_since(since, limit)

    async def ended_after(self, sequence: int, limit: int) -> Sequence[Ended]:
        """Return jobs that ended after the one with that sequence number, oldest first; one may come twice."""
        return await self.jobs.ended_after(sequence, limit)

    async def newest_sequence(self) -> int:
        """Return the sequence number of the newest end."""
        return await self.jobs.newest_sequence()

    async def open_clip(
        self, clip_id: str, asset: Asset, query: Sequence[tuple[str, str]]
    ) -> tuple[ClipLink, ClipFile]:
        """Check a link and return the file behind it: syntax, signature, expiry, existence, in that order.

        Raises:
            ClipUrlMalformedError, ClipUrlInvalidError, ClipUrlExpiredError: See `UrlSigner.verify`.
            ClipGoneError: The link is good, the clip was swept or found damaged.
        """
        link = self._signer.verify(clip_id, asset, query, self.clock.now())
        _, file = await self._stored(clip_id, asset)
        return link, file

    async def watch(
        self, clip_id: str, query: Sequence[tuple[str, str]]
    ) -> tuple[WatchLink, StoredClip, JobRecord | None]:
        """Check a watch link; return it, the clip that it shows, and the clip's job unless the record was swept.

        Raises:
            ClipUrlMalformedError, ClipUrlInvalidError, ClipUrlExpiredError: See `UrlSigner.verify_watch`.
            ClipGoneError: The link is good, the clip was swept or found damaged.
            ClipHiddenError: The operator hid the clip, or it waits for a moderator.
        """
        link = self._signer.verify_watch(clip_id, query, self.clock.now())
        clip, _ = await self._stored(clip_id, Asset.VIDEO)
        job = await self.jobs.of_clip(clip_id)
        if job is not None and await self.jobs.show.hidden([job]):
            raise ClipHiddenError(
                f"clip {clip_id} waits for a moderator, or the operator hid it; the link stays good"
            )
        return link, clip, job

    async def watch_file(
        self, clip_id: str, asset: Asset, query: Sequence[tuple[str, str]], *, download: bool
    ) -> str:
        """Check a watch link and return a freshly signed path of one file of its clip.

        Raises:
            ClipUrlError: See `watch`.
        """
        await self.watch(clip_id, query)
        return self._signer.sign(clip_id, asset, self.clock.now() + self.policy.url_ttl, download=download)

    async def _stored(self, clip_id: str, asset: Asset) -> tuple[StoredClip, ClipFile]:
        stored = await self._clips.find(clip_id)
        file = None if stored is None else await self._clips.open(stored, asset)
        if stored is None or file is None:
            raise ClipGoneError(
                f"clip {clip_id} was swept or damaged; submit the prompt again with the same seed"
            )
        return stored, file

    async def _launch(self, job: JobRecord, *, may_be_retried: bool) -> None:
        try:
            await self._launcher.launch(job)
        except AnimeStudioError as error:
            if not may_be_retried:  # no caller knows this job's id: it must not wait for ever
                await self.jobs.cancel(job.job_id, error.problem(job.request_id), self.clock.now())
            raise

    def _new_job(self, request: GenerateRequest, caller: Caller) -> JobRecord:
        spec = plan(
            request,
            self.recipe,
            model_revision=self.recipe.revision,
            seed=new_seed(),
            decoder=self.policy.decoder,
            compose_prompt=self.policy.compose_prompts,
        )
        return JobRecord.submitted(
            request,
            spec,
            request_id=caller.request_id,
            now=self.clock.now(),
            traceparent=caller.traceparent,
            notes=notes_on(spec, self.recipe),
        )

    async def spend(self) -> Spend:
        """Return what was spent today and this month against the budgets; nothing where nobody bills."""
        policy, now = self.policy, self.clock.now()
        today_usd = month_usd = 0.0
        if policy.machine.gpu is not None:
            by_day = await self.spent_by_day()
            today_usd, month_usd = today_and_month(by_day, await self.jobs.show.spent_before(), now)
        return Spend(
            usd=round(today_usd, 6),
            budget_usd_per_clip=policy.budget_usd_per_clip,
            today_usd=round(today_usd, 6),
            month_usd=round(month_usd, 6),
            budget_usd_per_day=policy.budget_usd_per_day,
            budget_usd_per_month=policy.budget_usd_per_month,
        )

    async def spent_by_day(self) -> dict[str, float]:
        """Return the US dollars of each day, UTC, whose jobs are still recorded."""
        ended = await self.jobs.finished_since(None, MOST_COUNTED)
        return spent_by_day(ended, self.policy, self.clock.now())

    async def _refuse_new(self, resolution: Resolution) -> None:
        """Refuse a new job of *resolution* while the operator has paused the show or if it would pass the budget."""
        if await self.jobs.show.paused():
            raise OrdersPausedError(
                "the operator takes no orders for now; those that wait go on", retry_after_s=60
            )
        if self.policy.budget_usd_per_day is None and self.policy.budget_usd_per_month is None:
            return
        spend, each = await self.spend(), await self._estimates(*await self._resolutions_ahead(), resolution)
        expected_usd = sum(one.usd or 0.0 for one in each)
        refuse_if_spent(spend.today_usd, spend.month_usd, expected_usd, self.policy, self.clock.now())

    async def _refuse_early(self, request: GenerateRequest) -> None:
        refuse_if_blocked(await self._launcher.readiness())
        await self._refuse_new(request.resolution)
        backlog = await self.jobs.backlog()
        eta_s = await self._seconds_until_ready(request.resolution)
        if backlog.queued >= self.policy.max_queued_jobs:
            raise _queue_full(backlog.queued, eta_s)
        if request.deadline_s is not None and eta_s is not None and eta_s > request.deadline_s:
            raise DeadlineUnmeetableError(
                f"the clip would be ready in about {eta_s:.0f} s, after the deadline of {request.deadline_s:g} s",
                retry_after_s=max(1.0, eta_s - request.deadline_s),
            )

    async def _seconds_until_ready(self, resolution: Resolution, position: int | None = None) -> float | None:
        """Return the seconds until a clip of *resolution* is ready, as the recipe's last clips took them.

        Args:
            resolution: Of the clip.
            position: Of its job in the queue; None for a new one.

        Returns:
            None where no clip of its size, or of the size of one ahead, was measured.
        """
        each = await self._estimates(*await self._resolutions_ahead(position), resolution)
        return None if any(one.projected for one in each) else seconds_of(each)

    async def _resolutions_ahead(self, position: int | None = None) -> Sequence[Resolution]:
        """Return the resolutions of the jobs before the one at *position* in the queue, or before a new one."""
        backlog = await self.jobs.backlog()
        count = backlog.queued + backlog.running if position is None else position
        first, *others = self.recipe.native_sizes
        if count == 0 or all(other.landscape is first.landscape for other in others):
            return [first] * count
        open_jobs = await self.jobs.open_jobs()
        if position is not None:
            open_jobs = [job for job in open_jobs if job.state is JobState.QUEUED][:position]
        return [job.spec.resolution for job in open_jobs]

    async def _estimates(self, *resolutions: Resolution) -> Sequence[Estimate]:
        """Return what a clip of each of *resolutions* should take."""
        recent = await self.jobs.finished_since(None, limit=ESTIMATE_FROM_JOBS)
        policy, of = self.policy, {}
        for resolution in set(resolutions):
            of[resolution] = estimate(recent, self.recipe, policy.machine, policy.decoder, resolution)
        return [of[resolution] for resolution in resolutions]

    def _with_links(self, job: JobRecord, stored: StoredClip, base_url: str) -> Clip:
        now = self.clock.now()
        expires_at = (now + self.policy.url_ttl).replace(microsecond=0)
        return Clip(
            **stored.model_dump(exclude={"poster_size_bytes", "poster_sha256"}),
            url=base_url + self._signer.sign(stored.clip_id, Asset.VIDEO, expires_at),
            poster_url=base_url + self._signer.sign(stored.clip_id, Asset.POSTER, expires_at),
            watch_url=base_url + self._watch_link(job, stored).path(),
            expires_at=expires_at,
            expires_in_s=max(0, int((expires_at - now).total_seconds())),
            duration_s=stored.num_frames / stored.fps,
        )

    def _watch_link(self, job: JobRecord, stored: StoredClip) -> WatchLink:
        since = job.finished_at or self.clock.now()
        return self._signer.sign_watch(stored.clip_id, since + self.policy.clip_ttl)


_SAME_IN_BOTH = {
    "job_id", "request_id", "state", "stage", "version", "timings", "start_kind", "cost", "error", "notes", "requested_by",
    "paths", "created_at", "started_at", "finished_at", "attempts",
}  # fmt: skip


def _queue_full(queued: int, eta_s: float | None) -> QueueFullError:
    return QueueFullError(
        f"{queued} jobs are waiting, as many as allowed; try again later",
        retry_after_s=max(1.0, (eta_s or 60.0) / (queued + 1)),
    )


def _no_job() -> JobNotFoundError:
    return JobNotFoundError("no job has this id; records are kept for a limited time")


def _fingerprint(request: GenerateRequest, caller: Caller) -> IdempotencyKey | None:
    if caller.idempotency_key is None:
        return None
    # Telemetry fields and names may differ between tries of one request; what is rendered may not.
    rendered = request.model_copy(update={"prompt": canonical(request.prompt)})
    body = rendered.model_dump_json(
        exclude={"requested_by", "source", "queue_depth", "fallback", "deadline_s"}
    )
    return IdempotencyKey(caller.idempotency_key, hashlib.sha256(body.encode()).hexdigest())
