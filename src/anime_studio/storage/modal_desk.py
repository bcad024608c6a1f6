"""How the GPU container speaks of its one job: progress in the background, its end at once.

A Dict call takes tens of milliseconds, and a GPU second costs what it costs, so a courier thread carries the
newest version and looks for a cancel, while the main thread draws. Only the claim and the end are waited for.
The thread lives as long as one job: none exists while a memory snapshot is taken.
"""

from __future__ import annotations

import threading
from typing import Final, Self

import structlog

from anime_studio.core.errors import StorageError, WorkerDiedError
from anime_studio.core.jobs import Clock, JobRecord
from anime_studio.storage.modal_dicts import JobDicts, Key, dict_errors, plain
from anime_studio.telemetry import JOB_PROGRESS_LOST
from common.schemas import Problem

LOOK_EVERY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class ModalDesk:
    """A `JobDesk` for one call; use it with `with`."""

    def __init__(self, dicts: JobDicts, call_id: str, *, clock: Clock, max_attempts: int) -> None:
        self.newest: JobRecord | None = None
        self._dicts = dicts
        self._call_id = call_id
        self._clock = clock
        self._max_attempts = max_attempts
        self._cancelled = False
        self._news = threading.Event()
        self._over = threading.Event()
        self._courier = threading.Thread(target=self._carry, name="job-courier", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_courier()

    def claim(self, job: JobRecord) -> JobRecord | None:
        """Take the job for this call, again if this call had it before its container was taken away.

        Returns:
            The claimed job; final when there is nothing left to draw; None when another call has it.

        Raises:
            StorageError: The claim could not be kept.
        """
        job_id = job.job_id
        with dict_errors(job_id):
            if ended := self._dicts.ended.get(job_id):
                return JobRecord.model_validate(ended)
            first = self._dicts.jobs.put(Key.CLAIM.of(job_id), self._call_id, skip_if_exists=True)
            if not first and self._dicts.jobs.get(Key.CLAIM.of(job_id)) != self._call_id:
                return None
            before = self._dicts.jobs.get(Key.RUN.of(job_id))
            cancel = self._dicts.jobs.get(Key.CANCEL.of(job_id))
        newest = JobRecord.model_validate(before) if before else job
        if hopeless := self._hopeless(newest, cancel and Problem.model_validate(cancel)):
            self.save(hopeless)
            return hopeless
        self.newest = claimed = newest.claimed(self._clock.now())
        with dict_errors(job_id):
            self._dicts.jobs.put(Key.RUN.of(job_id), plain(claimed))
        self._courier.start()
        return claimed

    def save(self, job: JobRecord) -> None:
        """See `JobDesk.save`: an end is kept when this returns, progress soon after."""
        self.newest = job
        if not job.state.final:
            self._news.set()
            return
        self._stop_courier()
        with dict_errors(job.job_id):
            self._dicts.ended.put(job.job_id, plain(job), skip_if_exists=True)

    def cancel_requested(self, job_id: str) -> bool:  # noqa: ARG002  there is one
        """See `JobDesk.cancel_requested`; as the courier saw it within the last half second."""
        return self._cancelled

    def _hopeless(self, job: JobRecord, cancel: Problem | None) -> JobRecord | None:
        if cancel is not None:
            return job.cancelled(cancel, self._clock.now())
        if job.attempts >= self._max_attempts:
            error = WorkerDiedError(
                f"job {job.job_id} was tried {job.attempts} times and its container died each time; "
                "see `modal app logs anime-studio`; submit it again with another size or seed"
            )
            return job.failed(error.problem(job.request_id), self._clock.now())
        return None

    def _carry(self) -> None:
        carried: JobRecord | None = None
        while not self._over.is_set():
            self._news.wait(LOOK_EVERY_S)
            self._news.clear()
            newest = self.newest
            if newest is None or newest.state.final:
                continue
            try:
                with dict_errors(newest.job_id):
                    if newest is not carried:
                        self._dicts.jobs.put(Key.RUN.of(newest.job_id), plain(newest))
                        carried = newest
                    self._cancelled = self._dicts.jobs.contains(Key.CANCEL.of(newest.job_id))
            except StorageError as error:
                _log.warning(JOB_PROGRESS_LOST, detail=error.detail)

    def _stop_courier(self) -> None:
        self._over.set()
        self._news.set()
        if self._courier.is_alive():
            self._courier.join()
