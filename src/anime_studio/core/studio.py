"""The use cases: submit, wait, read, follow, cancel.

Knows jobs, recipes and links; knows nothing of HTTP, SQLite, Modal or torch. The same
object serves the laptop and Modal, each with its own store, launcher and clip reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import statistics
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from anime_studio.core.clip import plan
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import (
    AnimeStudioError,
    CheckpointError,
    ClipGoneError,
    DeadlineUnmeetableError,
    JobCancelledError,
    JobNotFoundError,
    QueueFullError,
    UnavailableError,
    WeightsMissingError,
)
from anime_studio.core.jobs import (
    Asset,
    ClipFile,
    ClipReader,
    Clock,
    IdempotencyKey,
    JobRecord,
    JobStore,
    Launcher,
)
from anime_studio.core.pricing import UNBILLED, Machine
from anime_studio.core.projection import refuse_over_budget
from anime_studio.core.recipes import Recipe
from anime_studio.core.signing import ClipLink, UrlSigner
from common.schemas import SEED_MAX, Clip, GenerateRequest, Job, JobState, Links, Progress, Readiness

ESTIMATE_WINDOW = timedelta(hours=1)
"""Recent jobs whose median duration stands for the next one's."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: what ties a job to its request."""

    request_id: str
    traceparent: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a deployment allows; from the settings."""

    max_queued_jobs: int = 32
    url_ttl: timedelta = timedelta(seconds=900)
    compose_prompts: bool = True
    machine: Machine = UNBILLED
    budget_usd_per_clip: float | None = None


class Studio:
    """One deployment: a recipe, a job store, a launcher, a clip reader and a signer."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        model_revision: str,
        jobs: JobStore,
        launcher: Launcher,
        clips: ClipReader,
        signer: UrlSigner,
        policy: Policy,
        clock: Clock | None = None,
    ) -> None:
        self.recipe = recipe
        self.model_revision = model_revision
        self.policy = policy
        self.clock = clock or SystemClock()
        self._jobs = jobs
        self._launcher = launcher
        self._clips = clips
        self._signer = signer

    async def submit(self, request: GenerateRequest, caller: Caller) -> JobRecord:
        """Keep a job for *request* and ask for it to be drawn, or refuse it before any GPU wakes.

        Raises:
            UnsupportedByRecipeError: The recipe cannot draw it.
            WeightsMissingError: No worker can draw until the command in the detail has been run.
            QueueFullError: Too many jobs wait.
            BudgetExceededError: It is projected to cost more than a clip may.
            DeadlineUnmeetableError: It could not be ready in time.
            IdempotencyConflictError: The key belongs to another body.
            StorageError: The job could not be kept; it does not exist.
            UnavailableError: No worker could be asked. With an idempotency key the same call asks again.
        """
        job = self._new_job(request, caller)
        idempotency = _fingerprint(request, caller)
        if idempotency is None or await self._jobs.find_idempotent(idempotency) is None:
            refuse_over_budget(job.spec, self.recipe, self.policy.machine, self.policy.budget_usd_per_clip)
            await self._refuse_what_cannot_be_done(request)
        kept = await self._jobs.add(job, idempotency)
        if not kept.state.final:
            await self._launch(kept, may_be_retried=idempotency is not None)
        return kept

    async def get(self, job_id: str) -> JobRecord:
        """Return the job's newest version.

        Raises:
            JobNotFoundError: There is none, or its record was swept.
        """
        job = await self._jobs.get(job_id)
        if job is None:
            raise JobNotFoundError("no job has this id; records are kept for a limited time")
        return job

    async def wait(self, job_id: str, timeout_s: float) -> JobRecord:
        """Return the job once it is final, or as it stands after *timeout_s*."""
        newest = await self.get(job_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                async for job in self._jobs.changes(job_id, after=newest.version):
                    newest = job
        return newest

    async def follow(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """Yield the job's versions above *after*, until its end.

        Raises:
            JobNotFoundError: There is none.
        """
        await self.get(job_id)
        async for job in self._jobs.changes(job_id, after=after):
            yield job

    async def cancel(self, job_id: str) -> JobRecord:
        """End a queued job at once; a running one stops at its next step. A final job is left as it is."""
        job = await self.get(job_id)
        error = JobCancelledError(f"job {job_id} was cancelled by its owner").problem(job.request_id)
        after = await self._jobs.cancel(job_id, error, self.clock.now())
        if after is None:
            raise JobNotFoundError("no job has this id; records are kept for a limited time")
        if not job.state.final:
            await self._launcher.stop(after)
        return after

    async def delete_clip(self, job_id: str, timeout_s: float) -> JobRecord:
        """Stop the job if it still runs, waiting at most *timeout_s*, and delete its clip; its record stays.

        Returns:
            The job; when it is not final, it had not stopped in time and nothing was deleted.

        Raises:
            JobNotFoundError: There is none.
            StorageError: The clip could not be deleted.
        """
        await self.cancel(job_id)
        job = await self.wait(job_id, timeout_s)
        if job.clip is not None:
            await self._clips.remove(job.clip.clip_id)
        return job

    async def has_clip(self, job: JobRecord) -> bool:
        """Whether the job's clip is still in storage."""
        return job.clip is not None and await self._clips.find(job.clip.clip_id) is not None

    async def warm(self) -> Readiness:
        """Ask for a worker to be made ready, and say how things stand.

        Raises:
            UnavailableError: No worker can be asked now.
        """
        await self._launcher.warm()
        return await self.readiness()

    async def readiness(self) -> Readiness:
        """Say whether a new job would be drawn, and how soon it would be ready."""
        readiness, eta_s = await self._launcher.readiness(), await self._seconds_until_ready()
        backlog = await self._jobs.backlog()
        return readiness.model_copy(
            update={"eta_s": eta_s, "queued": backlog.queued, "running": backlog.running}
        )

    async def present(self, job: JobRecord, base_url: str) -> Job:
        """Return the wire form of *job*, with fresh signed links under *base_url*."""
        position = await self._jobs.queue_position(job)
        progress = job.progress
        if job.state is JobState.QUEUED and position is not None:
            progress = Progress(
                total_steps=job.spec.num_inference_steps, eta_s=await self._seconds_until_ready(position)
            )
        return Job(
            **job.model_dump(include=_SAME_IN_BOTH, exclude_none=False),
            progress=progress,
            request=job.spec,
            clip=self._fresh_clip(job, base_url) if await self.has_clip(job) else None,
            queue_position=position,
            links=Links(self=f"{base_url}/jobs/{job.job_id}", events=f"{base_url}/jobs/{job.job_id}/events"),
        )

    async def channel_clips(self, channel: str, after: datetime) -> Sequence[JobRecord]:
        """Return a channel's clips that finished after *after*, oldest first."""
        return await self._jobs.channel_clips(channel, after)

    async def ended_since(self, since: datetime, limit: int = 1000) -> Sequence[JobRecord]:
        """Return jobs that ended at or after *since*, newest first."""
        return await self._jobs.finished_since(since, limit)

    async def open_clip(
        self, clip_id: str, asset: Asset, query: Sequence[tuple[str, str]]
    ) -> tuple[ClipLink, ClipFile]:
        """Check a link and return the file behind it: syntax, signature, expiry, existence, in that order.

        Raises:
            ClipUrlMalformedError, ClipUrlInvalidError, ClipUrlExpiredError: See `UrlSigner.verify`.
            ClipGoneError: The link is good, the clip was swept or found damaged.
        """
        link = self._signer.verify(clip_id, asset, query, self.clock.now())
        stored = await self._clips.find(clip_id)
        file = None if stored is None else await self._clips.open(stored, asset)
        if file is None:
            raise ClipGoneError(
                f"clip {clip_id} was swept or damaged; submit the prompt again with the same seed"
            )
        return link, file

    async def _launch(self, job: JobRecord, *, may_be_retried: bool) -> None:
        try:
            await self._launcher.launch(job)
        except AnimeStudioError as error:
            if not may_be_retried:  # nobody knows this job's id: it must not wait for ever
                await self._jobs.cancel(job.job_id, error.problem(job.request_id), self.clock.now())
            raise

    def _new_job(self, request: GenerateRequest, caller: Caller) -> JobRecord:
        now = self.clock.now()
        spec = plan(
            request,
            self.recipe,
            model_revision=self.model_revision,
            seed=secrets.randbelow(SEED_MAX + 1),
            compose_prompt=self.policy.compose_prompts,
        )
        deadline_s = request.deadline_s
        return JobRecord(
            job_id=f"j_{secrets.token_hex(16)}",
            clip_id=f"c_{secrets.token_hex(16)}",
            request_id=caller.request_id,
            traceparent=caller.traceparent,
            spec=spec,
            source=request.source,
            channel=request.channel,
            deadline_at=None if deadline_s is None else now + timedelta(seconds=deadline_s),
            created_at=now,
        )

    async def _refuse_what_cannot_be_done(self, request: GenerateRequest) -> None:
        readiness = await self._launcher.readiness()
        if readiness.code in (WeightsMissingError.code, CheckpointError.code):
            raise why_unready(
                readiness
            )  # nothing is drawn until somebody mends it: queueing would only hide that
        backlog = await self._jobs.backlog()
        eta_s = await self._seconds_until_ready()
        if backlog.queued >= self.policy.max_queued_jobs:
            raise QueueFullError(
                f"{backlog.queued} jobs are waiting, as many as allowed; try again later",
                retry_after_s=max(1.0, (eta_s or 60.0) / (backlog.queued + 1)),
            )
        if request.deadline_s is not None and eta_s is not None and eta_s > request.deadline_s:
            raise DeadlineUnmeetableError(
                f"the clip would be ready in about {eta_s:.0f} s, after the deadline of {request.deadline_s:g} s",
                retry_after_s=max(1.0, eta_s - request.deadline_s),
            )

    async def _seconds_until_ready(self, jobs_ahead: int | None = None) -> float | None:
        """Estimate from the median of the last hour's clips; None while there is nothing to go by."""
        recent = await self._jobs.finished_since(self.clock.now() - ESTIMATE_WINDOW, limit=50)
        seconds = [
            (job.finished_at - job.started_at).total_seconds()
            for job in recent
            if job.state is JobState.SUCCEEDED and job.finished_at and job.started_at
        ]
        if not seconds:
            return None
        if jobs_ahead is None:
            backlog = await self._jobs.backlog()
            jobs_ahead = backlog.queued + backlog.running
        return statistics.median(seconds) * (jobs_ahead + 1)

    def _fresh_clip(self, job: JobRecord, base_url: str) -> Clip | None:
        if job.clip is None:
            return None
        now = self.clock.now()
        expires_at = (now + self.policy.url_ttl).replace(microsecond=0)
        stored = job.clip
        return Clip(
            **stored.model_dump(exclude={"poster_size_bytes", "poster_sha256"}),
            url=base_url + self._signer.sign(stored.clip_id, Asset.VIDEO, expires_at),
            poster_url=base_url + self._signer.sign(stored.clip_id, Asset.POSTER, expires_at),
            expires_at=expires_at,
            expires_in_s=max(0, int((expires_at - now).total_seconds())),
            duration_s=stored.num_frames / stored.fps,
        )


_SAME_IN_BOTH = {
    "job_id", "request_id", "state", "stage", "version", "timings", "start_kind", "cost", "error",
    "created_at", "started_at", "finished_at",
}  # fmt: skip


def why_unready(readiness: Readiness) -> AnimeStudioError:
    """Return the error that says why no worker can draw, and which command mends it."""
    command = readiness.command
    told = command is None or command in readiness.detail
    detail = readiness.detail if told else f"{readiness.detail}; run: {command}"
    if readiness.code == WeightsMissingError.code:
        return WeightsMissingError(detail, command=command)
    if readiness.code == CheckpointError.code:
        return CheckpointError(detail)
    return UnavailableError(detail)


def _fingerprint(request: GenerateRequest, caller: Caller) -> IdempotencyKey | None:
    if caller.idempotency_key is None:
        return None
    # Telemetry fields may differ between tries of one request; what is drawn may not.
    body = request.model_dump_json(exclude={"source", "queue_depth", "fallback", "deadline_s"})
    return IdempotencyKey(caller.idempotency_key, hashlib.sha256(body.encode()).hexdigest())
