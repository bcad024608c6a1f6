"""Jobs in one SQLite file, as the one worker process claims and reports them.

The worker holds the data folder's lock, so a job found running is one whose worker is
gone: it is claimed again under the same clip id, and ended when it has outlived too
many workers or its owner cancelled it meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from anime_studio.core.errors import WorkerDiedError
from anime_studio.core.jobs import JobRecord
from anime_studio.storage.sqlite import connect, storage_errors, update, writing
from common.schemas import JobState, Problem

RESUMABLE_FOR: Final = timedelta(hours=1)
"""How long the steps of a finished job stay readable for a stream that resumes; its end stays longer."""


class SqliteDesk:
    """A `JobDesk` that also hands out work; one at a time, with `jobs.sqlite3` prepared."""

    def __init__(self, path: Path, *, max_attempts: int) -> None:
        self._path = path
        self._max_attempts = max_attempts
        self._connection = connect(path)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def claim(self, now: datetime) -> JobRecord | None:
        """Take the oldest interrupted job, else the oldest queued one; None when there is none.

        A job that may not run again comes back final: it was ended here, and needs only to be told.

        Raises:
            StorageError: The claim could not be kept.
        """
        with storage_errors(self._path):
            if self._next() is None:  # a look costs no lock
                return None
            with writing(self._connection):
                found = self._next()
                if found is None:
                    return None
                job, cancel = found
                job = self._hopeless(job, cancel, now) or job.claimed(now)
                update(self._connection, job)
            return job

    def save(self, job: JobRecord) -> None:
        """See `JobDesk.save`."""
        with storage_errors(self._path), writing(self._connection):
            update(self._connection, job)

    def cancel_requested(self, job_id: str) -> bool:
        """See `JobDesk.cancel_requested`."""
        with storage_errors(self._path):
            row = self._connection.execute("SELECT cancel FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
        return row is not None and row[0] is not None

    def hand_back_running(self) -> Sequence[JobRecord]:
        """Make every running job wait again, uncounted: for after its worker was stopped on purpose.

        Raises:
            StorageError: It could not be kept.
        """
        with storage_errors(self._path), writing(self._connection):
            rows = self._connection.execute("SELECT record FROM jobs WHERE state = 'running'").fetchall()
            jobs = [JobRecord.model_validate_json(record).handed_back() for (record,) in rows]
            for job in jobs:
                update(self._connection, job)
        return jobs

    def sweep(self, now: datetime, job_ttl: timedelta) -> int:
        """Forget jobs that ended more than *job_ttl* ago; return how many."""
        resumable, kept = (now - RESUMABLE_FOR).timestamp(), (now - job_ttl).timestamp()
        with storage_errors(self._path), writing(self._connection):
            self._connection.execute(
                "DELETE FROM events WHERE event_id IN (SELECT event_id FROM events JOIN jobs USING (job_id) "
                "WHERE jobs.finished_at < ? AND events.version < jobs.version)",
                (resumable,),
            )
            return self._connection.execute("DELETE FROM jobs WHERE finished_at < ?", (kept,)).rowcount

    def _next(self) -> tuple[JobRecord, Problem | None] | None:
        row = self._connection.execute(
            "SELECT record, cancel FROM jobs WHERE finished_at IS NULL AND state IN ('running', 'queued') "
            "ORDER BY state = 'running' DESC, seq LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        record, cancel = row
        return JobRecord.model_validate_json(record), cancel and Problem.model_validate_json(cancel)

    def _hopeless(self, job: JobRecord, cancel: Problem | None, now: datetime) -> JobRecord | None:
        if cancel is not None:
            return job.cancelled(cancel, now)
        if job.state is JobState.RUNNING and job.attempts >= self._max_attempts:
            error = WorkerDiedError(
                f"job {job.job_id} was tried {job.attempts} times and its worker died each time; "
                "the server's log has the reason (worker.exited); submit it again with another size or seed"
            )
            return job.failed(error.problem(job.request_id), now)
        return None
