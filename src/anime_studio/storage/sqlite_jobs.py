"""Jobs in one SQLite file, as the web process keeps and reads them.

SQLite's calls run in a few threads, each with its own connection, so that the event
loop never waits for a disk. WAL lets readers go on while one writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from anime_studio.core.errors import IdempotencyConflictError
from anime_studio.core.jobs import Backlog, IdempotencyKey, JobRecord
from anime_studio.storage.job_feed import Event, JobFeed
from anime_studio.storage.sqlite import connect, insert, prepare, storage_errors, update, writing
from common.schemas import JobState, Problem

THREADS: Final = 4

_T = TypeVar("_T")


class SqliteJobs:
    """A `JobStore`; open it with `async with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqlite-jobs")
        self._of_thread = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._feed = JobFeed(self._newest_event_id, self._events_after)

    async def __aenter__(self) -> Self:
        """Create or check the file.

        Raises:
            StorageError: It is damaged or cannot be used; the detail names it and the remedy.
            ConfigurationError: A newer version of this program made it.
        """
        await asyncio.to_thread(prepare, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._feed.aclose()
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()

    def end_streams(self) -> None:
        """End every `changes` iterator early: the process is about to stop."""
        self._feed.close()

    async def add(self, job: JobRecord, idempotency: IdempotencyKey | None) -> JobRecord:
        """See `JobStore.add`; job and key are kept in one transaction."""

        def write(connection: sqlite3.Connection) -> JobRecord:
            with writing(connection):
                earlier = idempotency and _earlier(connection, idempotency)
                if earlier:
                    return earlier
                insert(connection, job)
                if idempotency is not None:
                    connection.execute(
                        "INSERT INTO idempotency (key, fingerprint, job_id) VALUES (?, ?, ?)",
                        (idempotency.key, idempotency.fingerprint, job.job_id),
                    )
            return job

        return await self._run(write)

    async def find_idempotent(self, idempotency: IdempotencyKey) -> JobRecord | None:
        """See `JobStore.find_idempotent`."""
        return await self._run(lambda connection: _earlier(connection, idempotency))

    async def get(self, job_id: str) -> JobRecord | None:
        """See `JobStore.get`."""
        return await self._run(lambda connection: _read(connection, job_id))

    async def changes(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """See `JobStore.changes`; also ends when the process is about to stop."""
        async with self._feed.follow(job_id) as inbox:  # before the replay: nothing falls in between
            missed, over = await self._run(lambda connection: _replay(connection, job_id, after))
            for job in missed:
                after = job.version
                yield job
            while not over:
                news = await inbox.get()
                if news is None:
                    return
                if news.version > after:
                    after, over = news.version, news.state.final
                    yield news

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

        return await self._run(write)

    async def queue_position(self, job: JobRecord) -> int | None:
        """See `JobStore.queue_position`."""

        def read(connection: sqlite3.Connection) -> int | None:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM jobs WHERE state = 'queued' AND finished_at IS NULL AND seq < mine.seq) "
                "FROM jobs AS mine WHERE job_id = ? AND state = 'queued'",
                (job.job_id,),
            ).fetchone()
            return None if row is None else int(row[0])

        return await self._run(read) if job.state is JobState.QUEUED else None

    async def backlog(self) -> Backlog:
        """See `JobStore.backlog`."""

        def read(connection: sqlite3.Connection) -> Backlog:
            counts = dict(
                connection.execute(
                    "SELECT state, count(*) FROM jobs WHERE finished_at IS NULL GROUP BY state"
                ).fetchall()
            )
            return Backlog(queued=counts.get("queued", 0), running=counts.get("running", 0))

        return await self._run(read)

    async def finished_since(self, since: datetime, limit: int = 1000) -> Sequence[JobRecord]:
        """See `JobStore.finished_since`."""
        return await self._select(
            "WHERE finished_at >= ? ORDER BY finished_at DESC LIMIT ?", (since.timestamp(), limit)
        )

    async def channel_clips(self, channel: str, after: datetime, limit: int = 20) -> Sequence[JobRecord]:
        """See `JobStore.channel_clips`."""
        return await self._select(
            "WHERE channel = ? AND finished_at > ? AND state = 'succeeded' ORDER BY finished_at LIMIT ?",
            (channel, after.timestamp(), limit),
        )

    async def _select(self, where: str, parameters: tuple[object, ...]) -> Sequence[JobRecord]:
        def read(connection: sqlite3.Connection) -> Sequence[JobRecord]:
            rows = connection.execute(f"SELECT record FROM jobs {where}", parameters)  # noqa: S608  our own text
            return [JobRecord.model_validate_json(record) for (record,) in rows]

        return await self._run(read)

    async def _newest_event_id(self) -> int:
        return await self._run(
            lambda connection: int(
                connection.execute("SELECT coalesce(max(event_id), 0) FROM events").fetchone()[0]
            )
        )

    async def _events_after(self, event_id: int) -> Sequence[Event]:
        return await self._run(
            lambda connection: [
                Event(*row)
                for row in connection.execute(
                    "SELECT event_id, job_id, record FROM events WHERE event_id > ? ORDER BY event_id",
                    (event_id,),
                )
            ]
        )

    async def _run(self, use: Callable[[sqlite3.Connection], _T]) -> _T:
        def call() -> _T:
            with storage_errors(self._path):
                return use(self._connection())

        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = connect(self._path)
            self._connections.append(connection)
        return connection


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
    return [JobRecord.model_validate_json(record) for (record,) in rows], newest.state.final
