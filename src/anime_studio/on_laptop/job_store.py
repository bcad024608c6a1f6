"""Jobs in one SQLite file, as the web process stores and reads them.

SQLite's calls run in threads, each with its own connection, so that the event loop never waits
for a disk: one thread writes, a few read. With WAL, readers do not wait for the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from anime_studio.core.errors import IdempotencyConflictError, QueueFullError, StorageError
from anime_studio.core.jobs import Backlog, ChannelPage, Ended, IdempotencyKey, JobRecord
from anime_studio.on_laptop.database import connect, insert, prepare, storage_errors, update, writing
from anime_studio.on_laptop.job_feed import Event, JobFeed
from anime_studio.on_laptop.show_store import SqliteShow
from common.schemas import JobState, Problem

READ_THREADS: Final = 4
WRITES_WAIT_S: Final = 5.0
"""The longest wait for another process's write, and the longest in the queue before that."""
READS_WAIT_S: Final = 2.0
"""With WAL, only a process that locks the whole file makes a read wait."""

_T = TypeVar("_T")


class SqliteJobs:
    """A `JobStore`; open it with `async with`."""

    def __init__(self, path: Path, *, writes_wait_s: float = WRITES_WAIT_S) -> None:
        self._path = path
        self._writes_wait_s, self._written_at_s = writes_wait_s, 0.0
        # SQLite takes one write at a time, so one thread writes; reads never queue behind it.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="sqlite-reader")
        self._of_thread = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._files: Mapping[Path, tuple[int, int]] = {}
        self.feed = JobFeed(self.newest_sequence, self._events_after)
        self.show = SqliteShow(self)

    async def __aenter__(self) -> Self:
        """Create or check the file.

        Raises:
            StorageError: It is damaged or cannot be used; the detail names it and the remedy.
            ConfigurationError: A newer version of this program made it.
        """
        await asyncio.to_thread(prepare, self._path)
        await (
            self.newest_sequence()
        )  # a connection that stays open holds the files that belong to the database
        self._files = {path: identity for path in self._companions() if (identity := _identity(path))}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.feed.aclose()
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()

    async def add(
        self, job: JobRecord, idempotency: IdempotencyKey | None, *, max_queued: int | None = None
    ) -> JobRecord:
        """See `JobStore.add`; the queue is counted, and job and key are stored, in one transaction."""

        def write(connection: sqlite3.Connection) -> JobRecord:
            with writing(connection):
                earlier = idempotency and _earlier(connection, idempotency)
                if earlier:
                    return earlier
                if max_queued is not None:
                    _refuse_full_queue(connection, max_queued)
                insert(connection, job)
                if idempotency is not None:
                    connection.execute(
                        "INSERT INTO idempotency (key, fingerprint, job_id) VALUES (?, ?, ?)",
                        (idempotency.key, idempotency.fingerprint, job.job_id),
                    )
            return job

        return await self.write_with(write)

    async def find_idempotent(self, idempotency: IdempotencyKey) -> JobRecord | None:
        """See `JobStore.find_idempotent`."""
        return await self.read_with(lambda connection: _earlier(connection, idempotency))

    async def get(self, job_id: str) -> JobRecord | None:
        """See `JobStore.get`."""
        return await self.read_with(lambda connection: _read(connection, job_id))

    async def of_clip(self, clip_id: str) -> JobRecord | None:
        """See `JobStore.of_clip`."""
        return next(iter(await self._records("WHERE clip_id = ? AND finished_at IS NOT NULL", clip_id)), None)

    async def changes(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """See `JobStore.changes`; also ends when the process is about to stop."""
        async with self.feed.follow(job_id) as inbox:  # before the replay: nothing falls in between
            missed, over = await self.read_with(lambda connection: _replay(connection, job_id, after))
            for job in missed:
                after = job.version
                yield job
            while not over:
                newer = await inbox.get()
                if newer is None:
                    return
                if newer.version > after:
                    after, over = newer.version, newer.state.final
                    yield newer

    async def cancel(self, job_id: str, error: Problem, now: datetime) -> JobRecord | None:
        """See `JobStore.cancel`."""

        def write(connection: sqlite3.Connection) -> JobRecord | None:
            with writing(connection):
                job = _read(connection, job_id)
                if job is not None and job.state is JobState.QUEUED:
                    job = job.cancelled(error, now)
                    update(connection, job)
                elif job is not None and job.state is JobState.RUNNING:
                    connection.execute(
                        "UPDATE jobs SET cancel = ? WHERE job_id = ?", (error.model_dump_json(), job_id)
                    )
            return job

        return await self.write_with(write)

    async def with_deadline(self) -> Sequence[JobRecord]:
        """Return the jobs that have a deadline and have not ended."""
        return await self._records(
            "WHERE finished_at IS NULL AND json_extract(record, '$.deadline_at') IS NOT NULL"
        )

    async def end_at_deadline(self, job_id: str, now: datetime) -> JobRecord | None:
        """Fail an open job because its deadline passed, and return its end; None when it has ended before."""

        def write(connection: sqlite3.Connection) -> JobRecord | None:
            with writing(connection):
                job = _read(connection, job_id)
                if job is None or job.state.final:
                    return None
                ended = job.past_deadline(now)
                update(connection, ended)
            return ended

        return await self.write_with(write)

    async def queue_position(self, job: JobRecord) -> int | None:
        """See `JobStore.queue_position`."""
        if job.state is not JobState.QUEUED:
            return None
        rows = await self._select(
            "SELECT (SELECT count(*) FROM jobs WHERE state = 'queued' AND finished_at IS NULL AND seq < mine.seq) "
            "FROM jobs AS mine WHERE job_id = ? AND state = 'queued'",
            job.job_id,
        )
        return rows[0][0] if rows else None

    async def backlog(self) -> Backlog:
        """See `JobStore.backlog`."""
        rows = await self._select("SELECT state, count(*) FROM jobs WHERE finished_at IS NULL GROUP BY state")
        counts = dict(rows)
        return Backlog(queued=counts.get("queued", 0), running=counts.get("running", 0))

    async def open_jobs(self) -> Sequence[JobRecord]:
        """See `JobStore.open_jobs`."""
        return await self._records("WHERE finished_at IS NULL ORDER BY state = 'queued', seq")

    async def finished_since(self, since: datetime | None, limit: int = 1000) -> Sequence[JobRecord]:
        """See `JobStore.finished_since`."""
        return await self._records(
            "WHERE ended_seq IS NOT NULL AND finished_at >= ? ORDER BY ended_seq DESC LIMIT ?",
            *(float("-inf") if since is None else since.timestamp(), limit),
        )

    async def ended_after(self, sequence: int, limit: int = 1000) -> Sequence[Ended]:
        """See `JobStore.ended_after`."""
        return await self._ended(
            "ended_seq", "WHERE ended_seq > ? ORDER BY ended_seq LIMIT ?", sequence, limit
        )

    async def newest_sequence(self) -> int:
        """See `JobStore.newest_sequence`: SQLite counts the events, those that were swept included."""
        rows = await self._select("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    async def channel_clips(self, channel: str, after: int | None, limit: int = 20) -> ChannelPage:
        """See `JobStore.channel_clips`."""
        newest = await self.newest_sequence()  # first: a clip that comes in between is above it
        on_channel = "WHERE channel = ? AND state = 'succeeded' AND hidden = 0 AND shown_seq"
        if after is None or after > newest:
            latest = await self._ended(
                "shown_seq", f"{on_channel} > 0 ORDER BY shown_seq DESC LIMIT ?", channel, limit
            )
            clips = latest[::-1]
        else:
            clips = await self._ended(
                "shown_seq", f"{on_channel} > ? ORDER BY shown_seq LIMIT ?", channel, after, limit
            )
        more = after is not None and len(clips) >= limit
        next_after = clips[-1].sequence if more else max([newest, *(clip.sequence for clip in clips)])
        return ChannelPage(clips, next_after, more)

    async def _events_after(self, event_id: int) -> Sequence[Event]:
        sql = "SELECT event_id, job_id, record FROM events WHERE event_id > ? ORDER BY event_id"
        return [Event(*row) for row in await self._select(sql, event_id)]

    async def _select(self, sql: str, *parameters: object) -> list[Any]:
        return await self.read_with(lambda connection: connection.execute(sql, parameters).fetchall())

    async def _records(self, where: str, *parameters: object) -> Sequence[JobRecord]:
        sql = f"SELECT record FROM jobs {where}"  # noqa: S608  our own text
        return await self.read_with(lambda connection: _parsed(connection.execute(sql, parameters)))

    async def _ended(self, sequence: str, where: str, *parameters: object) -> list[Ended]:
        rows = await self._select(f"SELECT {sequence}, record FROM jobs {where}", *parameters)  # noqa: S608  our own text
        return [Ended(number, JobRecord.model_validate_json(record)) for number, record in rows]

    def require_its_files(self) -> None:
        """Refuse to go on when the database's files were deleted or replaced under this process.

        SQLite would go on in files that have no name, and all that it acknowledges would be lost with the process.

        Raises:
            StorageError: The detail names the file and what to do.
        """
        for path, identity in self._files.items():
            if _identity(path) != identity:
                raise StorageError(
                    f"{path} was deleted or replaced while the server runs; put the file back or leave the folder "
                    "as it is, and restart the server: jobs that were accepted before may be lost"
                )

    async def read_with(self, use: Callable[[sqlite3.Connection], _T]) -> _T:
        """Read in a thread that has a connection of its own.

        Raises:
            StorageError: The database cannot be read.
        """

        def call() -> _T:
            with storage_errors(self._path):
                return use(self._connection(READS_WAIT_S))

        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def write_with(self, use: Callable[[sqlite3.Connection], _T]) -> _T:
        """Write in the one thread that writes.

        Raises:
            StorageError: Nothing was stored.
        """
        queued_at = time.monotonic()

        def call() -> _T:
            held_s = time.monotonic() - max(queued_at, self._written_at_s)  # our own queue holds nobody up
            if held_s > self._writes_wait_s:  # before the write: an answer must be true
                raise StorageError(f"{self._path} is busy: another process holds it; nothing was stored")
            with storage_errors(self._path):
                self.require_its_files()
                result = use(self._connection(self._writes_wait_s))
                self.require_its_files()
            self._written_at_s = time.monotonic()
            return result

        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    def _companions(self) -> Sequence[Path]:
        return [self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal", "-shm")]

    def _connection(self, busy_timeout_s: float) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = connect(self._path, busy_timeout_s=busy_timeout_s)
            self._connections.append(connection)
        return connection


def _refuse_full_queue(connection: sqlite3.Connection, max_queued: int) -> None:
    (queued,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE state = 'queued' AND finished_at IS NULL"
    ).fetchone()
    if queued >= max_queued:
        raise QueueFullError(f"{queued} jobs are waiting, as many as allowed; try again later")


def _parsed(rows: Iterable[tuple[str]]) -> Sequence[JobRecord]:
    return [JobRecord.model_validate_json(record) for (record,) in rows]


def _read(connection: sqlite3.Connection, job_id: str) -> JobRecord | None:
    row = connection.execute("SELECT record FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    return None if row is None else JobRecord.model_validate_json(row[0])


def _earlier(connection: sqlite3.Connection, idempotency: IdempotencyKey) -> JobRecord | None:
    row = connection.execute(
        "SELECT fingerprint, record FROM idempotency JOIN jobs USING (job_id) WHERE key = ?",
        (idempotency.key,),
    ).fetchone()
    if row is None:
        return None
    fingerprint, record = row
    if fingerprint != idempotency.fingerprint:
        raise IdempotencyConflictError(
            f"Idempotency-Key {idempotency.key!r} was used before with another body; make a new key for a new request"
        )
    return JobRecord.model_validate_json(record)


def _replay(connection: sqlite3.Connection, job_id: str, after: int) -> tuple[Sequence[JobRecord], bool]:
    """Return the versions above *after*, and whether nothing can follow them."""
    # The newest version first: should one come in between the two reads, the feed brings it.
    newest = _read(connection, job_id)
    if newest is None:
        return [], True
    rows = connection.execute(
        "SELECT record FROM events WHERE job_id = ? AND version > ? AND version <= ? ORDER BY version",
        (job_id, after, newest.version),
    )
    return _parsed(rows), newest.state.final


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
