"""Jobs in one SQLite file, as the one worker process claims and saves them.

The worker holds the data folder's lock, so a job found running is one whose worker has died.
It is claimed again under the same clip id, or ended when its worker died too often or its
owner cancelled it meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from anime_studio.core.jobs import JobRecord
from anime_studio.on_laptop.database import connect, storage_errors, update, writing
from common.schemas import Problem

RESUMABLE_FOR: Final = timedelta(hours=1)
"""How long a stream of a finished job can resume from its steps; the job's end stays longer."""


class SqliteWorkerStore:
    """A `WorkerStore` that also claims jobs; the database must be prepared. One worker uses it at a time."""

    def __init__(self, path: Path, *, max_attempts: int) -> None:
        self._path = path
        self._max_attempts = max_attempts
        self._connection = connect(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def claim(self, now: datetime) -> JobRecord | None:
        """Take the oldest interrupted job, else the oldest queued one; None when there is none.

        A job that may not start again is ended here and comes back final, for the caller to log.

        Raises:
            StorageError: The claim could not be stored.
        """
        with storage_errors(self._path):
            if self._next() is None:  # without work, no write lock is taken
                return None
            with writing(self._connection):
                found = self._next()
                if found is None:
                    return None
                job, cancel = found
                ended = job.ended_before_start(
                    now,
                    cancel=cancel,
                    max_attempts=self._max_attempts,
                    log="the server's log (worker.exited)",
                )
                job = ended or job.claimed(now)
                update(self._connection, job)
            return job

    def next_queued(self) -> JobRecord | None:
        """Return the oldest queued job, which is claimed next; None when there is none.

        Raises:
            StorageError: The database cannot be read.
        """
        with storage_errors(self._path):
            row = self._connection.execute(
                "SELECT record FROM jobs WHERE finished_at IS NULL AND state = 'queued' AND cancel IS NULL "
                "ORDER BY seq LIMIT 1"
            ).fetchone()
        return None if row is None else JobRecord.model_validate_json(row[0])

    def save(self, job: JobRecord) -> bool:
        """See `WorkerStore.save`."""
        with storage_errors(self._path), writing(self._connection):
            return update(self._connection, job)

    def cancel_requested(self, job_id: str) -> bool:
        """See `WorkerStore.cancel_requested`."""
        with storage_errors(self._path):
            row = self._connection.execute(
                "SELECT cancel IS NOT NULL OR finished_at IS NOT NULL FROM jobs WHERE job_id = ?", (job_id,)
            ).fetchone()
        return row is not None and bool(row[0])

    def requeue_running(self) -> Sequence[JobRecord]:
        """Requeue every running job: for when its worker was killed on purpose.

        Raises:
            StorageError: It could not be stored.
        """
        with storage_errors(self._path), writing(self._connection):
            rows = self._connection.execute("SELECT record FROM jobs WHERE state = 'running'").fetchall()
            jobs = [JobRecord.model_validate_json(record).requeued() for (record,) in rows]
            for job in jobs:
                update(self._connection, job)
        return jobs

    def end_or_retry_hung(self, now: datetime) -> Sequence[JobRecord]:
        """End the running jobs whose worker hung and was killed, and return them; the others run again.

        Raises:
            StorageError: It could not be stored.
        """
        ended = []
        with storage_errors(self._path), writing(self._connection):
            rows = self._connection.execute(
                "SELECT record, cancel FROM jobs WHERE state = 'running'"
            ).fetchall()
            for record, cancel in rows:
                job = JobRecord.model_validate_json(record).ended_after_hang(
                    now,
                    cancel=cancel and Problem.model_validate_json(cancel),
                    max_attempts=self._max_attempts,
                )
                if job is not None:
                    update(self._connection, job)
                    ended.append(job)
        return ended

    def sweep(self, now: datetime, job_ttl: timedelta) -> int:
        """Delete jobs that ended more than *job_ttl* ago; return how many."""
        resumable_since, stored_since = (now - RESUMABLE_FOR).timestamp(), (now - job_ttl).timestamp()
        with storage_errors(self._path), writing(self._connection):
            self._connection.execute(
                "DELETE FROM events WHERE event_id IN (SELECT event_id FROM events JOIN jobs USING (job_id) "
                "WHERE jobs.finished_at < ? AND events.version < jobs.version)",
                (resumable_since,),
            )
            return self._connection.execute(
                "DELETE FROM jobs WHERE finished_at < ?", (stored_since,)
            ).rowcount

    def _next(self) -> tuple[JobRecord, Problem | None] | None:
        row = self._connection.execute(
            "SELECT record, cancel FROM jobs WHERE finished_at IS NULL AND state IN ('running', 'queued') "
            "ORDER BY state = 'running' DESC, seq LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        record, cancel = row
        return JobRecord.model_validate_json(record), cancel and Problem.model_validate_json(cancel)
