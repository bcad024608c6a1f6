"""Jobs in `modal.Dict`, as the web containers keep and read them.

Any number of web containers serve one deployment, so nothing is remembered here but final records, which
never change. A running job's news comes from its GPU container; when that is silent for good, the Modal call
itself is asked, and the job is ended with what it says. `modal_dicts` has the keys and who writes them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from anime_studio.core.errors import (
    AnimeStudioError,
    IdempotencyConflictError,
    UnavailableError,
    WorkerDiedError,
)
from anime_studio.core.jobs import Backlog, Clock, IdempotencyKey, JobRecord
from anime_studio.storage.modal_calls import outcome_of
from anime_studio.storage.modal_dicts import JobDicts, Key, dict_errors, plain
from common.schemas import JobState, Problem

LOOK_EVERY_S: Final = 0.4
NEVER_LAUNCHED_AFTER: Final = timedelta(minutes=15)
"""A job that no call was made for in this time belongs to a web container that died between the two."""
GIVEN_UP_AFTER: Final = timedelta(days=2)
"""Modal ends every call after 24 hours at the latest (guide, "Timeouts"); one more for the queue."""


class ModalJobs:
    """A `JobStore`."""

    def __init__(
        self,
        dicts: JobDicts,
        *,
        clock: Clock,
        backlog: Callable[[], Awaitable[Backlog]],
        tell: Callable[[JobRecord], None] = lambda _: None,
    ) -> None:
        """Take what is needed to keep jobs.

        Args:
            dicts: Where they are kept.
            clock: The time.
            backlog: Asks Modal for the function's queue.
            tell: Called with each job that is ended on this side; its GPU container tells of the others.
        """
        self._tell = tell
        self._dicts = dicts
        self._clock = clock
        self._backlog = backlog
        self._final: dict[str, JobRecord] = {}
        self._seen_open: set[str] = set()

    async def add(self, job: JobRecord, idempotency: IdempotencyKey | None) -> JobRecord:
        """See `JobStore.add`: the job first, then its key, so that a key never names a job that is not kept."""
        with dict_errors(job.job_id):
            await self._dicts.jobs.put.aio(Key.JOB.of(job.job_id), plain(job))
            if idempotency is None:
                return job
            entry = {"fingerprint": idempotency.fingerprint, "job_id": job.job_id}
            name = _name_of(idempotency)
            if await self._dicts.keys.put.aio(name, entry, skip_if_exists=True):
                return job
        if earlier := await self.find_idempotent(idempotency):
            with dict_errors(job.job_id):
                await self._dicts.jobs.pop.aio(Key.JOB.of(job.job_id), None)
            return earlier
        with dict_errors(job.job_id):  # the key outlived its job
            await self._dicts.keys.put.aio(name, entry)
        return job

    async def find_idempotent(self, idempotency: IdempotencyKey) -> JobRecord | None:
        """See `JobStore.find_idempotent`."""
        with dict_errors(f"of Idempotency-Key {idempotency.key!r}"):
            entry: dict[str, str] | None = await self._dicts.keys.get.aio(_name_of(idempotency))
        if entry is None:
            return None
        if entry["fingerprint"] != idempotency.fingerprint:
            raise IdempotencyConflictError(
                f"Idempotency-Key {idempotency.key!r} was used before with another body; "
                "make a new key for a new request"
            )
        return await self.get(entry["job_id"])

    async def get(self, job_id: str) -> JobRecord | None:
        """See `JobStore.get`; asks the job's call too, so that a job whose container is gone ends."""
        if ended := await self._ended(job_id):
            return ended
        job, run, claim, call = await self._read(job_id, Key.JOB, Key.RUN, Key.CLAIM, Key.CALL)
        newest = run or job
        if newest is None:  # unknown, or it ended between the two reads
            return await self._ended(job_id)
        self._seen_open.add(job_id)
        record = JobRecord.model_validate(newest)
        call_id = claim or call
        return record if call_id is None else await self._as_its_call_says(record, call_id)

    async def changes(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """See `JobStore.changes`; of versions that follow each other within a look, the newest is told."""
        while (job := await self.get(job_id)) is not None:
            if job.state.final:
                # Ended by this side, its number may be one that its container had used.
                yield job.model_copy(update={"version": max(job.version, after + 1)})
                return
            if job.version > after:
                after = job.version
                yield job
            await asyncio.sleep(LOOK_EVERY_S)

    async def cancel(self, job_id: str, error: Problem, now: datetime) -> JobRecord | None:
        """See `JobStore.cancel`; the mark comes first, for a container that takes the job meanwhile."""
        job = await self.get(job_id)
        if job is None or job.state.final:
            return job
        with dict_errors(job_id):
            await self._dicts.jobs.put.aio(Key.CANCEL.of(job_id), error.model_dump(mode="json"))
        if job.state is JobState.QUEUED:
            return await self.end(job.cancelled(error, now))
        return job

    async def queue_position(self, job: JobRecord) -> int | None:
        """See `JobStore.queue_position`."""
        if job.state is not JobState.QUEUED:
            return None
        waiting = [other for other in await self._open_jobs() if other.state is JobState.QUEUED]
        return sum((other.created_at, other.job_id) < (job.created_at, job.job_id) for other in waiting)

    async def backlog(self) -> Backlog:
        """See `JobStore.backlog`; as Modal counts the function's inputs."""
        return await self._backlog()

    async def finished_since(self, since: datetime, limit: int = 1000) -> Sequence[JobRecord]:
        """See `JobStore.finished_since`."""
        finished = [job for job in await self._all_ended() if job.finished_at and job.finished_at >= since]
        return sorted(finished, key=_finished_at, reverse=True)[:limit]

    async def channel_clips(self, channel: str, after: datetime, limit: int = 20) -> Sequence[JobRecord]:
        """See `JobStore.channel_clips`."""
        clips = [
            job
            for job in await self._all_ended()
            if job.channel == channel and job.clip is not None and _finished_at(job) > after
        ]
        return sorted(clips, key=_finished_at)[:limit]

    async def end(self, final: JobRecord) -> JobRecord:
        """Keep *final*, unless the job has ended otherwise meanwhile; return how it did end."""
        with dict_errors(final.job_id):
            first = await self._dicts.ended.put.aio(final.job_id, plain(final), skip_if_exists=True)
        if first:
            self._tell(final)
        return await self._ended(final.job_id) or final

    async def call_of(self, job_id: str) -> str | None:
        """Return the id of the Modal call that was made for the job."""
        call: str | None = (await self._read(job_id, Key.CALL))[0]
        return call

    async def note_call(self, job_id: str, call_id: str) -> None:
        """Remember the Modal call that was made for the job."""
        with dict_errors(job_id):
            await self._dicts.jobs.put.aio(Key.CALL.of(job_id), call_id)

    async def sweep(self, job_ttl: timedelta) -> Sequence[str]:
        """Forget jobs that ended more than *job_ttl* ago and tidy what ended or was never launched; return their ids."""
        now, ended = self._clock.now(), await self._all_ended()
        old = [job.job_id for job in ended if now - _finished_at(job) > job_ttl]
        with dict_errors("being swept"):
            for job_id in old:
                await self._dicts.ended.pop.aio(job_id, None)
                self._final.pop(job_id, None)
            open_ids = {key.partition(":")[2] async for key in self._dicts.jobs.keys.aio()}
        for job_id in open_ids & {job.job_id for job in ended}:
            await self._tidy(job_id)
        for job in await self._open_jobs():
            await self._end_if_lost(job, now)
        return old

    async def _end_if_lost(self, job: JobRecord, now: datetime) -> None:
        age = now - job.created_at
        queued = job.state is JobState.QUEUED
        if queued and age > NEVER_LAUNCHED_AFTER and await self.call_of(job.job_id) is None:
            lost: AnimeStudioError = UnavailableError(
                f"job {job.job_id} was never handed to a container; submit it again"
            )
        elif age > GIVEN_UP_AFTER:
            lost = WorkerDiedError(f"nothing was heard of job {job.job_id} for too long; submit it again")
        else:
            return
        await self.end(job.failed(lost.problem(job.request_id), now))

    async def _as_its_call_says(self, record: JobRecord, call_id: str) -> JobRecord:
        outcome = await outcome_of(call_id, record.job_id)
        if outcome.record is not None:
            return await self.end(outcome.record)
        if outcome.error is None:
            return record
        problem, now = outcome.error.problem(record.request_id), self._clock.now()
        (cancel,) = await self._read(record.job_id, Key.CANCEL)
        if cancel is not None:
            return await self.end(record.cancelled(Problem.model_validate(cancel), now))
        return await self.end(record.failed(problem, now))

    async def _ended(self, job_id: str) -> JobRecord | None:
        if job_id not in self._final:
            with dict_errors(job_id):
                entry = await self._dicts.ended.get.aio(job_id)
            if entry is None:
                return None
            self._final[job_id] = JobRecord.model_validate(entry)
        if job_id in self._seen_open:
            self._seen_open.discard(job_id)
            await self._tidy(job_id)
        return self._final[job_id]

    async def _all_ended(self) -> Sequence[JobRecord]:
        """Return every final record that is kept; only those that are new here are fetched."""
        with dict_errors("list"):
            kept = {job_id async for job_id in self._dicts.ended.keys.aio()}
            if not self._final:
                entries = [entry async for entry in self._dicts.ended.items.aio()]
                self._final = {job_id: JobRecord.model_validate(entry) for job_id, entry in entries}
        for gone in self._final.keys() - kept:
            del self._final[gone]
        await asyncio.gather(*(self._ended(job_id) for job_id in kept - self._final.keys()))
        return list(self._final.values())

    async def _open_jobs(self) -> Sequence[JobRecord]:
        """Return the newest version of every job that has not ended."""
        with dict_errors("list"):
            entries = {name: entry async for name, entry in self._dicts.jobs.items.aio()}
            ended = {job_id async for job_id in self._dicts.ended.keys.aio()}
        submitted = {
            name.partition(":")[2]: entry for name, entry in entries.items() if name.startswith("job:")
        }
        return [
            JobRecord.model_validate(entries.get(Key.RUN.of(job_id), entry))
            for job_id, entry in submitted.items()
            if job_id not in ended
        ]

    async def _read(self, job_id: str, *keys: Key) -> list[Any]:
        with dict_errors(job_id):
            return await asyncio.gather(*(self._dicts.jobs.get.aio(key.of(job_id)) for key in keys))

    async def _tidy(self, job_id: str) -> None:
        with dict_errors(job_id):
            await asyncio.gather(*(self._dicts.jobs.pop.aio(key.of(job_id), None) for key in Key))


def _name_of(idempotency: IdempotencyKey) -> str:
    return hashlib.sha256(idempotency.key.encode()).hexdigest()


def _finished_at(job: JobRecord) -> datetime:
    return job.finished_at or job.created_at
