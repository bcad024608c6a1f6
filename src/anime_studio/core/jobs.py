"""A job's record, the moves it may make, and the values that stores and renderers exchange.

The record holds what must survive a crash. It is plain data (pydantic), so SQLite and
`modal.Dict` both store it as JSON. Only the moves below make a new version; a final job
never changes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from anime_studio.core.errors import DeadlineExceededError, WorkerDiedError, WorkerHungError
from anime_studio.core.ids import new_clip_id, new_job_id
from common.schemas import (
    CLIP_ID_PATTERN,
    JOB_ID_PATTERN,
    ClipSpec,
    Cost,
    GenerateRequest,
    JobState,
    Note,
    Problem,
    Progress,
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


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """What the renderer made: two files in a scratch folder, seconds of each stage, notes, names of the fast paths taken."""

    video: Path
    poster: Path
    width: int
    height: int
    num_frames: int
    fps: int
    text_s: float
    denoise_s: float
    decode_s: float
    upscale_s: float | None = None
    notes: tuple[Note, ...] = ()
    paths: tuple[str, ...] = ()


class StoredClip(BaseModel):
    """A clip in storage; the JSON sidecar beside its files holds the same."""

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

    @classmethod
    def of(
        cls, clip_id: str, rendered: RenderedClip, *, video: tuple[int, str], poster: tuple[int, str]
    ) -> Self:
        """Return the clip that *rendered* becomes; *video* and *poster* are size in bytes and SHA-256."""
        return cls(
            clip_id=clip_id,
            size_bytes=video[0],
            sha256=video[1],
            poster_size_bytes=poster[0],
            poster_sha256=poster[1],
            width=rendered.width,
            height=rendered.height,
            num_frames=rendered.num_frames,
            fps=rendered.fps,
        )

    def size_and_hash(self, asset: Asset) -> tuple[int, str]:
        """Return size in bytes and SHA-256 of one of the two files."""
        if asset is Asset.VIDEO:
            return self.size_bytes, self.sha256
        return self.poster_size_bytes, self.poster_sha256

    def file_name(self, asset: Asset) -> str:
        """Return the name of one file in storage: a file of other content has another name."""
        _, sha256 = self.size_and_hash(asset)
        return f"{self.clip_id}.{sha256[:16]}{asset.suffix}"


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
    requested_by: str | None = None
    source: str | None = None
    channel: str | None = None
    hold: bool = False
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
    notes: tuple[Note, ...] = ()
    paths: tuple[str, ...] = ()
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def submitted(
        cls,
        request: GenerateRequest,
        spec: ClipSpec,
        *,
        request_id: str,
        now: datetime,
        traceparent: str | None = None,
        notes: tuple[Note, ...] = (),
    ) -> Self:
        """Return a new job for *request*, which means *spec*."""
        deadline_s = request.deadline_s
        return cls(
            job_id=new_job_id(),
            clip_id=new_clip_id(),
            request_id=request_id,
            traceparent=traceparent,
            spec=spec,
            requested_by=request.requested_by,
            source=request.source,
            channel=request.channel,
            hold=request.hold,
            deadline_at=None if deadline_s is None else now + timedelta(seconds=deadline_s),
            notes=notes,
            created_at=now,
        )

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

    def ended_before_start(
        self, now: datetime, *, cancel: Problem | None, max_attempts: int, log: str
    ) -> Self | None:
        """Return how the job ends without another attempt; None when a worker may start it.

        Args:
            now: Aware UTC time.
            cancel: The problem that its owner's cancel left, if there was one.
            max_attempts: A job whose worker died this many times fails.
            log: Where the operator reads why the worker died.
        """
        if cancel is not None:
            return self.cancelled(cancel, now)
        if self.state is JobState.RUNNING and self.attempts >= max_attempts:
            error = WorkerDiedError(
                f"job {self.job_id} was tried {self.attempts} times and its worker died each time; "
                f"{log} has the reason; submit it again with another size or seed"
            )
            return self.failed(error.problem(self.request_id), now)
        return None

    def ended_after_hang(self, now: datetime, *, cancel: Problem | None, max_attempts: int) -> Self | None:
        """Return how the job ends whose worker hung and was killed; None when it may run again."""
        if cancel is not None:
            return self.cancelled(cancel, now)
        if self.attempts < max_attempts:
            return None
        error = WorkerHungError(
            f"job {self.job_id} was tried {self.attempts} times; its worker went silent at {self.stage} and was "
            "killed; the server's log (worker.hung) has each time; submit it again with another size or seed"
        )
        return self.failed(error.problem(self.request_id), now)

    def past_deadline(self, now: datetime) -> Self:
        """Return the job failed because its deadline passed, whatever its worker does."""
        where = "in the queue" if self.state is JobState.QUEUED else f"at {self.stage}"
        error = DeadlineExceededError(
            f"job {self.job_id} was not ready by its deadline, stopped {where}; ask with a longer deadline_s"
        )
        return self.failed(error.problem(self.request_id), now)

    def seconds_left(self, now: datetime) -> float | None:
        """Return the seconds until the deadline, at most those that the caller gave; None without a deadline."""
        if self.deadline_at is None:
            return None
        return (self.deadline_at - max(now, self.created_at)).total_seconds()

    def progressed(self, stage: Stage, progress: Progress, start_kind: StartKind | None = None) -> Self:
        """The worker reached the next stage or step."""
        self._require(JobState.RUNNING)
        return self._move(stage=stage, progress=progress, start_kind=start_kind or self.start_kind)

    def requeued(self) -> Self:
        """The worker was stopped on purpose: the job waits again, and the attempt does not count."""
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

    def succeeded(
        self,
        clip: StoredClip,
        timings: Timings,
        cost: Cost,
        now: datetime,
        *,
        notes: tuple[Note, ...] = (),
        paths: tuple[str, ...] = (),
    ) -> Self:
        """The clip is stored; *notes* are the renderer's own, after those of the request, and *paths* those it took."""
        self._require(JobState.RUNNING)
        steps = self.spec.num_inference_steps
        return self._move(
            state=JobState.SUCCEEDED,
            stage=None,
            progress=Progress(step=steps, total_steps=steps, fraction=1.0, eta_s=0.0),
            clip=clip,
            cost=cost,
            timings=timings,
            notes=self.notes + notes,
            paths=paths,
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
        if timings is None:  # nobody measured it: it ends in the queue, or its worker is gone
            total_s = max(0.0, (now - self.created_at).total_seconds())
            timings = self.timings.model_copy(update={"total_s": total_s})
        return self._move(state=state, error=error, finished_at=now, timings=timings, cost=cost or self.cost)

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
class Ended:
    """A final job and its place in the order of ends."""

    sequence: int
    """Grows from end to end, whatever the clock does."""
    job: JobRecord


@dataclass(frozen=True, slots=True)
class ChannelPage:
    """Some clips of a channel, oldest first."""

    clips: Sequence[Ended]
    next_after: int
    """The cursor to go on with."""
    more: bool
    """Whether more clips may wait."""


@dataclass(frozen=True, slots=True)
class ClipFile:
    """One file of a clip on this machine's disk, checked by size and hash."""

    path: Path
    size_bytes: int
    sha256: str
    content_type: str
