"""Where a GPU container stores its one job: progress from a background thread, the claim and the end at once.

A Dict call takes tens of milliseconds, in which a waiting GPU would be billed. So a publisher thread writes the
newest version and reads the cancel mark while the main thread renders, and the main thread waits only for the claim
and for the end. The publisher lives as long as one job: no thread exists while a memory snapshot is taken.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Final, Self

import structlog

from anime_studio.core.errors import StorageError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.ports import Clock
from anime_studio.on_modal.dicts import JobDicts, Key, to_json
from anime_studio.on_modal.errors import client_errors
from anime_studio.telemetry import LogEvent
from common.schemas import Problem

POLL_EVERY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class ModalWorkerStore:
    """A `WorkerStore` for one call; use it with `with`."""

    def __init__(self, dicts: JobDicts, call_id: str, *, clock: Clock, max_attempts: int) -> None:
        self.newest: JobRecord | None = None
        self._dicts = dicts
        self._call_id = call_id
        self._clock = clock
        self._max_attempts = max_attempts
        self._cancelled = False
        self._changed = threading.Event()
        self._stopped = threading.Event()
        self._publisher = threading.Thread(target=self._publish, name="job-publisher", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_publisher()

    def claim(self, job: JobRecord) -> JobRecord | None:
        """Take the job for this call, again if this call had it before its container was taken away.

        Returns:
            The claimed job; a final job when there is nothing to render; None when another call has it.

        Raises:
            StorageError: The claim could not be stored.
        """
        job_id = job.job_id
        with _storage_errors(job_id):
            if ended := self._dicts.ended.get(job_id):
                return JobRecord.model_validate(ended)
            first = self._dicts.jobs.put(Key.CLAIM.of(job_id), self._call_id, skip_if_exists=True)
            if not first and self._dicts.jobs.get(Key.CLAIM.of(job_id)) != self._call_id:
                return None
            before = self._dicts.jobs.get(Key.RUN.of(job_id))
            cancel = self._dicts.jobs.get(Key.CANCEL.of(job_id))
        newest = JobRecord.model_validate(before) if before else job
        ended_before_start = newest.ended_before_start(
            self._clock.now(),
            cancel=cancel and Problem.model_validate(cancel),
            max_attempts=self._max_attempts,
            log="`modal app logs anime-studio`",
        )
        if ended_before_start is not None:
            self.save(ended_before_start)
            return ended_before_start
        self.newest = claimed = newest.claimed(self._clock.now())
        with _storage_errors(job_id):
            self._dicts.jobs.put(Key.RUN.of(job_id), to_json(claimed))
        self._publisher.start()
        return claimed

    def save(self, job: JobRecord) -> bool:
        """See `WorkerStore.save`: an end is stored when this returns, progress soon after."""
        self.newest = job
        if not job.state.final:
            self._changed.set()
            return True
        self._stop_publisher()
        with _storage_errors(job.job_id):
            return self._dicts.ended.put(job.job_id, to_json(job), skip_if_exists=True)

    def cancel_requested(self, job_id: str) -> bool:  # noqa: ARG002  this store has one job
        """See `WorkerStore.cancel_requested`; the publisher reads the mark twice a second."""
        return self._cancelled

    def cancel_of_owner(self, job_id: str) -> Problem | None:
        """Read the owner's mark now. The web container writes the mark before it cancels the call.

        Raises:
            StorageError: The mark cannot be read.
        """
        with _storage_errors(job_id):
            mark = self._dicts.jobs.get(Key.CANCEL.of(job_id))
        return None if mark is None else Problem.model_validate(mark)

    def _publish(self) -> None:
        published: JobRecord | None = None
        while not self._stopped.is_set():
            self._changed.wait(POLL_EVERY_S)
            self._changed.clear()
            newest = self.newest
            if newest is None or newest.state.final:
                continue
            try:
                with _storage_errors(newest.job_id):
                    if newest is not published:
                        self._dicts.jobs.put(Key.RUN.of(newest.job_id), to_json(newest))
                        published = newest
                    self._cancelled = self._dicts.jobs.contains(Key.CANCEL.of(newest.job_id))
            except StorageError as error:
                _log.warning(LogEvent.JOB_PROGRESS_LOST, detail=error.detail)

    def _stop_publisher(self) -> None:
        self._stopped.set()
        self._changed.set()
        if self._publisher.is_alive():
            self._publisher.join()


def _storage_errors(job_id: str) -> AbstractContextManager[None]:
    return client_errors(StorageError, f"the record of job {job_id} cannot be read or written on Modal")
