"""The ports: what the core and the job runner need from a store, a launcher and a renderer.

`on_laptop` and `on_modal` implement the stores and launchers, `engine` the renderer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from anime_studio.core.jobs import (
    Asset,
    Backlog,
    ChannelPage,
    ClipFile,
    Ended,
    IdempotencyKey,
    JobRecord,
    RenderedClip,
    StoredClip,
)
from common.schemas import ClipSpec, Problem, Readiness, Stage


class Clock(Protocol):
    """Time, so that tests can move it."""

    def now(self) -> datetime:
        """Aware UTC time."""


class ShowStore(Protocol):
    """What the operator and the owners of jobs have decided about a show. A write is durable when its call returns."""

    async def paused(self) -> bool:
        """Whether new jobs are refused."""

    async def pause(self, *, paused: bool) -> None:
        """Refuse new jobs, or take them again."""

    async def hide(self, job: JobRecord) -> None:
        """Keep the job's clip off its channel, now and when the job ends."""

    async def show(self, job: JobRecord, now: datetime, *, even_hidden: bool) -> None:
        """Put a clip that is off its channel on it, as the newest there; before the job's end, when it ends.

        Only the operator may show what the operator hid: *even_hidden*.
        """

    async def hidden(self, jobs: Sequence[JobRecord]) -> set[str]:
        """Return the ids of those clips, of these jobs, that are kept off their channel."""

    async def hidden_on(self, channel: str) -> Sequence[str]:
        """Return the ids of the channel's clips that are hidden, at most the last 100."""

    async def spent_before(self) -> Mapping[str, float]:
        """Return the US dollars of days (`2026-11-27`, UTC) whose records may have been swept."""


class JobStore(Protocol):
    """Where the web process stores and reads jobs. A write is durable when its call returns."""

    @property
    def show(self) -> ShowStore:
        """What was decided about these jobs' clips."""

    async def add(
        self, job: JobRecord, idempotency: IdempotencyKey | None, *, max_queued: int | None = None
    ) -> JobRecord:
        """Store a new job, or return the earlier job of the same idempotency key.

        Raises:
            QueueFullError: *max_queued* jobs are queued; counted with the insert where the store has transactions.
            IdempotencyConflictError: The key came with another body before.
            StorageError: It could not be stored; the job does not exist.
        """

    async def find_idempotent(self, idempotency: IdempotencyKey) -> JobRecord | None:
        """Return the earlier job of this key, if any.

        Raises:
            IdempotencyConflictError: The key came with another body before.
        """

    async def get(self, job_id: str) -> JobRecord | None:
        """Return the newest version, or None when there is no such job."""

    async def of_clip(self, clip_id: str) -> JobRecord | None:
        """Return the ended job that made the clip, or None."""

    def changes(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """Yield versions above *after* as they come; ends after the final one."""

    async def cancel(self, job_id: str, error: Problem, now: datetime) -> JobRecord | None:
        """End a queued job at once, mark a running one to stop at its next step, leave a final one alone."""

    async def queue_position(self, job: JobRecord) -> int | None:
        """Return how many jobs will start before this queued one; None when it is not queued."""

    async def backlog(self) -> Backlog:
        """Return how many jobs are queued and running."""

    async def open_jobs(self) -> Sequence[JobRecord]:
        """Return the jobs that have not ended: those that run, then those that wait, in the order of their turns."""

    async def finished_since(self, since: datetime | None, limit: int = 1000) -> Sequence[JobRecord]:
        """Return the last final jobs, newest first; only those that ended at or after *since*, if it is given."""

    async def ended_after(self, sequence: int, limit: int = 1000) -> Sequence[Ended]:
        """Return final jobs above *sequence*, oldest first. A job may come twice; none is left out."""

    async def newest_sequence(self) -> int:
        """Return a sequence number below which every end so far lies, or at which the newest one is."""

    async def channel_clips(self, channel: str, after: int | None, limit: int = 20) -> ChannelPage:
        """Return the channel's succeeded jobs above the sequence number *after*; without one, the newest.

        The sequence number is that of the end, or of the moment at which the clip was shown. Hidden ones are left out.
        A number that this store has not reached yet is another store's, and counts as none.
        """


class Launcher(Protocol):
    """Gets a stored job rendered: by a local worker process, or by a Modal function."""

    async def launch(self, job: JobRecord) -> None:
        """Ask for the job to be rendered. Safe to call twice for one job.

        Raises:
            UnavailableError: No worker can be asked now.
        """

    async def stop(self, job: JobRecord) -> None:
        """Reach the running worker after a cancel was stored; the store's mark alone also stops it, later."""

    async def readiness(self) -> Readiness:
        """Return whether a job launched now would be rendered, with the problem if not. Never wakes a GPU."""

    async def warm(self) -> None:
        """Ask for a worker to be made ready, rendering nothing; where one always runs, do nothing.

        Raises:
            UnavailableError: No worker can be asked now.
        """


class ClipReader(Protocol):
    """Where the web process finds finished clips."""

    async def open(self, clip: StoredClip, asset: Asset) -> ClipFile | None:
        """Return one checked file of a clip, or None when it is gone or damaged."""

    async def find(self, clip_id: str) -> StoredClip | None:
        """Return the sidecar of a published clip, or None."""

    async def remove(self, clip_id: str) -> None:
        """Delete a clip's files, the sidecar first; nothing happens when there are none.

        Raises:
            StorageError: They could not be deleted.
        """


class ClipWriter(Protocol):
    """Where the worker puts finished clips."""

    def publish(self, clip_id: str, rendered: RenderedClip) -> StoredClip:
        """Make both files durable, then visible, all or nothing; a second call for the id replaces the first.

        Raises:
            DiskFullError: No room.
            StorageError: Anything else.
        """


class WorkerStore(Protocol):
    """The job store as a worker uses it. One worker holds a job at a time."""

    def save(self, job: JobRecord) -> bool:
        """Store the job's next version; False when the job had ended elsewhere, which stays its end.

        Raises:
            StorageError: It could not be stored.
        """

    def cancel_requested(self, job_id: str) -> bool:
        """Whether the worker must stop it: its owner asked, or it has ended elsewhere."""


class Report(Protocol):
    """How a renderer reports its progress; raises `JobStoppedError` when the job must stop."""

    def __call__(self, stage: Stage, step: int = 0, total_steps: int = 0) -> None:
        """Note that *stage* has begun, or that *step* of *total_steps* of it is done."""


class Renderer(Protocol):
    """The engine as the job runner uses it."""

    def render(self, spec: ClipSpec, folder: Path, report: Report) -> RenderedClip:
        """Render *spec* into two finished files in *folder*.

        Raises:
            JobStoppedError: Raised by *report* and passed through.
            EngineError: Rendering failed.
        """
