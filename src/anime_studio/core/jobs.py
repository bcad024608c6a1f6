"""A job's record, the moves it may make, and the ports through which it is kept and run.

The record holds what must survive a crash. It is plain data (pydantic), so SQLite and
`modal.Dict` both keep it as JSON. Only the moves below make a new version; a final job
never changes again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from common.schemas import (
    CLIP_ID_PATTERN,
    JOB_ID_PATTERN,
    ClipSpec,
    Cost,
    JobState,
    Problem,
    Progress,
    Readiness,
    Stage,
    StartKind,
    Timings,
)


class Asset(StrEnum):
    """The two files of a clip."""

    VIDEO = "video"
    POSTER = "poster"

    @property
    def content_type(self) -> str:
        """Media type of the file."""
        return "video/mp4" if self is Asset.VIDEO else "image/jpeg"

    @property
    def suffix(self) -> str:
        """File name ending."""
        return ".mp4" if self is Asset.VIDEO else ".jpg"


class StoredClip(BaseModel):
    """A clip as it lies in storage; the sidecar beside the MP4 holds the same."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    clip_id: Annotated[str, Field(pattern=CLIP_ID_PATTERN)]
    size_bytes: int
    sha256: str
    poster_size_bytes: int
    poster_sha256: str
    width: int
    height: int
    num_frames: int
    fps: int

    def size_and_hash(self, asset: Asset) -> tuple[int, str]:
        """Return size in bytes and SHA-256 of one of the two files."""
        if asset is Asset.VIDEO:
            return self.size_bytes, self.sha256
        return self.poster_size_bytes, self.poster_sha256


class IllegalMoveError(Exception):
    """A programming error: the job's state does not allow that move."""


class JobRecord(BaseModel):
    """Everything that is known of a job."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    job_id: Annotated[str, Field(pattern=JOB_ID_PATTERN)]
    clip_id: Annotated[str, Field(pattern=CLIP_ID_PATTERN)]
    request_id: str
    traceparent: str | None = None
    spec: ClipSpec
    source: str | None = None
    channel: str | None = None
    deadline_at: datetime | None = None
    state: JobState = JobState.QUEUED
    stage: Stage | None = None
    progress: Progress = Progress()
    version: int = 0
    attempts: int = 0
    timings: Timings = Timings()
    start_kind: StartKind | None = None
    clip: StoredClip | None = None
    cost: Cost | None = None
    error: Problem | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def claimed(self, now: datetime) -> Self:
        """A worker took the job; also how an interrupted job starts again."""
        self._require(JobState.QUEUED, JobState.RUNNING)
        return self._move(
            state=JobState.RUNNING,
            stage=Stage.STARTING,
            progress=Progress(total_steps=self.spec.num_inference_steps),
            attempts=self.attempts + 1,
            started_at=now,
            timings=Timings(queue_s=max(0.0, (now - self.created_at).total_seconds())),
        )

    def progressed(self, stage: Stage, progress: Progress, start_kind: StartKind | None = None) -> Self:
        """The worker went one stage or step on."""
        self._require(JobState.RUNNING)
        return self._move(stage=stage, progress=progress, start_kind=start_kind or self.start_kind)

    def handed_back(self) -> Self:
        """The worker stops before the job's end, in good order: it waits again and the attempt does not count."""
        self._require(JobState.RUNNING)
        return self._move(
            state=JobState.QUEUED,
            stage=None,
            progress=Progress(),
            attempts=self.attempts - 1,
            started_at=None,
            timings=Timings(),
            start_kind=None,
        )

    def succeeded(self, clip: StoredClip, timings: Timings, cost: Cost, now: datetime) -> Self:
        """The clip is stored."""
        self._require(JobState.RUNNING)
        steps = self.spec.num_inference_steps
        return self._move(
            state=JobState.SUCCEEDED,
            stage=None,
            progress=Progress(step=steps, total_steps=steps, fraction=1.0, eta_s=0.0),
            clip=clip,
            cost=cost,
            timings=timings,
            finished_at=now,
        )

    def failed(
        self, error: Problem, now: datetime, timings: Timings | None = None, cost: Cost | None = None
    ) -> Self:
        """The job ended without a clip."""
        return self._end(JobState.FAILED, error, now, timings, cost)

    def cancelled(
        self, error: Problem, now: datetime, timings: Timings | None = None, cost: Cost | None = None
    ) -> Self:
        """Its owner stopped it."""
        return self._end(JobState.CANCELLED, error, now, timings, cost)

    def _end(
        self, state: JobState, error: Problem, now: datetime, timings: Timings | None, cost: Cost | None
    ) -> Self:
        self._require(JobState.QUEUED, JobState.RUNNING)
        timings = timings or self.timings
        return self._move(
            state=state,
            error=error,
            finished_at=now,
            timings=timings.model_copy(update={"total_s": max(0.0, (now - self.created_at).total_seconds())}),
            cost=cost or self.cost,
        )

    def _require(self, *states: JobState) -> None:
        if self.state not in states:
            raise IllegalMoveError(f"job {self.job_id} is {self.state}")

    def _move(self, **changes: object) -> Self:
        return self.model_copy(update={**changes, "version": self.version + 1})


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's key and the fingerprint of the body it came with."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Jobs not yet final."""

    queued: int
    running: int


@dataclass(frozen=True, slots=True)
class ClipFile:
    """One file of a clip, whole and checked, on this machine's disk."""

    path: Path
    size_bytes: int
    sha256: str
    content_type: str


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """What the engine made: two finished files in a scratch folder, and where the time went."""

    video: Path
    poster: Path
    width: int
    height: int
    num_frames: int
    fps: int
    text_s: float
    denoise_s: float
    decode_s: float


class Clock(Protocol):
    """Time, so that tests can move it."""

    def now(self) -> datetime:
        """Aware UTC time."""
        ...


class JobStore(Protocol):
    """Where the web process keeps and reads jobs. Every write is durable when the call returns."""

    async def add(self, job: JobRecord, idempotency: IdempotencyKey | None) -> JobRecord:
        """Keep a new job, or return the earlier job of the same idempotency key.

        Raises:
            IdempotencyConflictError: The key came with another body before.
            StorageError: It could not be kept; the job does not exist.
        """
        ...

    async def find_idempotent(self, idempotency: IdempotencyKey) -> JobRecord | None:
        """Return the earlier job of this key, if any.

        Raises:
            IdempotencyConflictError: The key came with another body before.
        """
        ...

    async def get(self, job_id: str) -> JobRecord | None:
        """Return the newest version, or None when there is no such job."""
        ...

    def changes(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """Yield versions above *after* as they come; ends after the final one."""
        ...

    async def cancel(self, job_id: str, error: Problem, now: datetime) -> JobRecord | None:
        """End a queued job at once, mark a running one to stop at its next step, leave a final one alone."""
        ...

    async def queue_position(self, job: JobRecord) -> int | None:
        """Return how many jobs will start before this queued one; None when it is not queued."""
        ...

    async def backlog(self) -> Backlog:
        """Return how many jobs wait and run."""
        ...

    async def finished_since(self, since: datetime, limit: int = 1000) -> Sequence[JobRecord]:
        """Return final jobs that ended at or after *since*, newest first."""
        ...

    async def channel_clips(self, channel: str, after: datetime, limit: int = 20) -> Sequence[JobRecord]:
        """Return the channel's succeeded jobs that finished after *after*, oldest first."""
        ...


class Launcher(Protocol):
    """Gets a kept job drawn: a local worker process, or a Modal function."""

    async def launch(self, job: JobRecord) -> None:
        """Ask for the job to be drawn. Safe to call twice for one job.

        Raises:
            UnavailableError: No worker can be asked now.
        """
        ...

    async def stop(self, job: JobRecord) -> None:
        """Reach the running worker after a cancel was recorded; the store's mark alone also stops it, later."""
        ...

    async def readiness(self) -> Readiness:
        """Say whether a job launched now would be drawn. Never wakes a GPU."""
        ...

    async def warm(self) -> None:
        """Ask for a worker to be made ready, drawing nothing; where one is always kept, do nothing.

        Raises:
            UnavailableError: No worker can be asked now.
        """
        ...


class ClipReader(Protocol):
    """Where the web process finds finished clips."""

    async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
        """Return one checked file of a clip, or None when it is gone or damaged."""
        ...

    async def find(self, clip_id: str) -> StoredClip | None:
        """Return the sidecar of a published clip, or None."""
        ...

    async def remove(self, clip_id: str) -> None:
        """Delete a clip's files, the sidecar first; nothing happens when there are none.

        Raises:
            StorageError: They could not be deleted.
        """
        ...


class ClipWriter(Protocol):
    """Where the worker puts finished clips."""

    def publish(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
        """Make both files durable, then visible, all or nothing; a second call for the id replaces the first.

        Raises:
            DiskFullError: No room.
            StorageError: Anything else.
        """
        ...


class JobDesk(Protocol):
    """How a worker speaks to the job store. One worker holds a job at a time."""

    def save(self, job: JobRecord) -> None:
        """Keep the job's next version.

        Raises:
            StorageError: It could not be kept.
        """
        ...

    def cancel_requested(self, job_id: str) -> bool:
        """Whether its owner asked to stop it."""
        ...


class Report(Protocol):
    """How a renderer tells where it is; raises `JobStoppedError` when the job must stop."""

    def __call__(self, stage: Stage, step: int = 0, total_steps: int = 0) -> None:
        """Note that *stage* has begun, or that *step* of *total_steps* of it is done."""
        ...


class Renderer(Protocol):
    """The engine as the worker sees it."""

    start_kind: StartKind
    """How it came to be ready; the worker reads it once, then later jobs are warm."""

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        """Draw *spec* into two finished files in *folder*.

        Raises:
            JobStoppedError: Raised by *report* and passed through.
            EngineError: Drawing failed.
        """
        ...
