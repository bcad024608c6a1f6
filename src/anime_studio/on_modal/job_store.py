"""Jobs in `modal.Dict`, as web containers store and read them.

Several web containers may serve one deployment, so a container caches only final records, which never change. The
GPU container writes a running job's progress. A container that was lost writes no end, so each read of an unfinished
job also asks Modal how the job's call stands, and ends the job if the call has ended. The entries and their writers
are listed in `on_modal.dicts`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final

from anime_studio.core.errors import (
    AnimeStudioError,
    EngineError,
    IdempotencyConflictError,
    UnavailableError,
    WorkerDiedError,
)
from anime_studio.core.jobs import Backlog, ChannelPage, Ended, IdempotencyKey, JobRecord
from anime_studio.core.ports import Clock
from anime_studio.on_modal.call_outcome import outcome_of
from anime_studio.on_modal.dicts import Entries, JobDicts, Key, to_json
from anime_studio.on_modal.gpu_failures import ENTRY, no_gpu_works
from anime_studio.on_modal.show_store import ModalShow, microseconds
from common.schemas import JobState, Problem

POLL_EVERY_S: Final = 0.4
NEVER_LAUNCHED_AFTER: Final = timedelta(minutes=15)
"""A job without a call after this time belongs to a web container that died before it made the call."""
GIVEN_UP_AFTER: Final = timedelta(days=2)
"""Modal ends each call after 24 hours at the latest (guide, "Timeouts"); the second day is for the queue."""

LATE_US: Final = 60 * 1_000_000
"""An end is stored some time after its `finished_at`, in microseconds: readers look back so far."""


class ModalJobs:
    """A `JobStore`."""

    def __init__(
        self,
        dicts: JobDicts,
        *,
        clock: Clock,
        backlog: Callable[[], Awaitable[Backlog]],
        on_ended: Callable[[JobRecord], None] = lambda _: None,
        list_waiting_every_s: float = 2.0,
    ) -> None:
        """Store what the methods need.

        Args:
            dicts: Where jobs are stored.
            clock: The time.
            backlog: Asks Modal for the function's queue.
            on_ended: Called with each job that this container ends; the GPU container logs the others.
            list_waiting_every_s: The queue, and what was decided about the show, are read at most this often, however
                many ask.
        """
        self._on_ended = on_ended
        self._jobs = Entries(dicts.jobs)
        self._ends = Entries(dicts.ended)
        self._keys = Entries(dicts.keys)
        self.show = ModalShow(dicts.show, read_every_s=list_waiting_every_s)
        self._clock = clock
        self._backlog = backlog
        self._final: dict[str, JobRecord] = {}
        self._seen_open: set[str] = set()
        self._list_waiting_every_s = list_waiting_every_s
        self._listing = asyncio.Lock()
        self._listed_at = -math.inf
        self._listed: Sequence[tuple[datetime, str]] = ()

    async def add(
        self,
        job: JobRecord,
        idempotency: IdempotencyKey | None,
        *,
        max_queued: int | None = None,  # noqa: ARG002
    ) -> JobRecord:
        """See `JobStore.add`: the job is stored before its key, so that no key names a job that is not stored.

        A Dict has no transactions, so jobs that come at the same moment may pass the bound, which only
        `Studio.submit` has checked before.
        """
        await self._jobs.put(Key.JOB.of(job.job_id), to_json(job))
        if idempotency is None:
            return job
        name = _name_of(idempotency)
        entry = {"fingerprint": idempotency.fingerprint, "job_id": job.job_id}
        if await self._keys.put(name, entry, skip_if_exists=True):
            return job
        if earlier := await self.find_idempotent(idempotency):
            await self._jobs.remove(Key.JOB.of(job.job_id))
            return earlier
        await self._keys.put(name, entry)  # the key outlived its job
        return job

    async def find_idempotent(self, idempotency: IdempotencyKey) -> JobRecord | None:
        """See `JobStore.find_idempotent`."""
        entry: dict[str, str] | None = await self._keys.get(_name_of(idempotency))
        if entry is None:
            return None
        if entry["fingerprint"] != idempotency.fingerprint:
            raise IdempotencyConflictError(
                f"Idempotency-Key {idempotency.key!r} was used before with another body; "
                "make a new key for a new request"
            )
        return await self.get(entry["job_id"])

    async def get(self, job_id: str) -> JobRecord | None:
        """See `JobStore.get`; asks the job's call too, so that a job ends whose container was lost."""
        if ended := await self._ended(job_id):
            return ended
        job, run, claim, call = await self._read(job_id, Key.JOB, Key.RUN, Key.CLAIM, Key.CALL)
        newest = run or job
        if newest is None:  # there is no such job, or it ended between the two reads
            return await self._ended(job_id)
        self._seen_open.add(job_id)
        record = JobRecord.model_validate(newest)
        call_id = claim or call
        return record if call_id is None else await self._end_with_its_call(record, call_id)

    async def of_clip(self, clip_id: str) -> JobRecord | None:
        """See `JobStore.of_clip`."""
        return next((job for job in await self._all_ended() if job.clip_id == clip_id), None)

    async def changes(self, job_id: str, after: int) -> AsyncIterator[JobRecord]:
        """See `JobStore.changes`; of several versions between two polls, only the newest is yielded."""
        while (job := await self.get(job_id)) is not None:
            if job.state.final:
                # An end that a web container wrote may have a version that the GPU container had used before.
                yield job.model_copy(update={"version": max(job.version, after + 1)})
                return
            if job.version > after:
                after = job.version
                yield job
            await asyncio.sleep(POLL_EVERY_S)

    async def cancel(self, job_id: str, error: Problem, now: datetime) -> JobRecord | None:
        """See `JobStore.cancel`; the mark is written first, for a GPU container that claims the job meanwhile."""
        job = await self.get(job_id)
        if job is None or job.state.final:
            return job
        await self._jobs.put(Key.CANCEL.of(job_id), error.model_dump(mode="json"))
        if job.state is JobState.QUEUED:
            return await self.end(job.cancelled(error, now))
        return job

    async def queue_position(self, job: JobRecord) -> int | None:
        """See `JobStore.queue_position`."""
        if job.state is not JobState.QUEUED:
            return None
        return sum(other < (job.created_at, job.job_id) for other in await self._waiting())

    async def backlog(self) -> Backlog:
        """See `JobStore.backlog`; Modal counts the function's inputs."""
        return await self._backlog()

    async def open_jobs(self) -> Sequence[JobRecord]:
        """See `JobStore.open_jobs`."""
        entries, ended = await self._jobs.items(), await self._ends.names()
        submitted = {
            name.partition(":")[2]: entry for name, entry in entries.items() if name.startswith("job:")
        }
        found = [
            JobRecord.model_validate(entries.get(Key.RUN.of(job_id), entry))
            for job_id, entry in submitted.items()
            if job_id not in ended
        ]
        return sorted(found, key=lambda job: (job.state is JobState.QUEUED, job.created_at, job.job_id))

    async def finished_since(self, since: datetime | None, limit: int = 1000) -> Sequence[JobRecord]:
        """See `JobStore.finished_since`."""
        finished = [job for job in await self._all_ended() if since is None or _finished_at(job) >= since]
        return sorted(finished, key=_finished_at, reverse=True)[:limit]

    async def ended_after(self, sequence: int, limit: int = 1000) -> Sequence[Ended]:
        """See `JobStore.ended_after`."""
        ended = [_in_order(job) for job in await self._all_ended()]
        above = (one for one in ended if one.sequence > sequence - LATE_US)
        return sorted(above, key=attrgetter("sequence"))[:limit]

    async def newest_sequence(self) -> int:
        """See `JobStore.newest_sequence`: so far ahead that `ended_after`, which looks back, starts now."""
        return microseconds(self._clock.now()) + LATE_US

    async def channel_clips(self, channel: str, after: int | None, limit: int = 20) -> ChannelPage:
        """See `JobStore.channel_clips`; the cursor stays behind the newest clip, so that a late one is not missed."""
        jobs = [job for job in await self._all_ended() if job.channel == channel and job.clip]
        placed = [(job, await self.show.place(job)) for job in jobs]
        all_clips = sorted(
            (Ended(max(place, _in_order(job).sequence), job) for job, place in placed if place is not None),
            key=attrgetter("sequence"),
        )
        above = [clip for clip in all_clips if clip.sequence > (after or 0)]
        clips = above[-limit:] if after is None else above[:limit]
        more = after is not None and len(clips) >= limit
        newest = clips[-1].sequence if clips else after or 0
        return ChannelPage(clips, newest if more else max(after or 0, newest - LATE_US), more)

    async def end(self, final: JobRecord) -> JobRecord:
        """Store *final*, unless the job has ended otherwise meanwhile; return the record of its end."""
        if await self._ends.put(final.job_id, to_json(final), skip_if_exists=True):
            self._on_ended(final)
        return await self._ended(final.job_id) or final

    async def gpu_error(self) -> EngineError | None:
        """Return the error that says that no GPU works, or None; see `on_modal.gpu_failures`."""
        return no_gpu_works(await self._jobs.get(ENTRY), self._clock.now())

    async def call_of(self, job_id: str) -> str | None:
        """Return the id of the Modal call that was made for the job."""
        call: str | None = (await self._read(job_id, Key.CALL))[0]
        return call

    async def note_call(self, job_id: str, call_id: str) -> None:
        """Store the id of the Modal call that was made for the job."""
        await self._jobs.put(Key.CALL.of(job_id), call_id)

    async def sweep(self, job_ttl: timedelta) -> Sequence[str]:
        """Delete jobs that ended more than *job_ttl* ago and return their ids; end jobs that were lost."""
        now, ended = self._clock.now(), await self._all_ended()
        old_jobs = [job for job in ended if now - _finished_at(job) > job_ttl]
        old = [job.job_id for job in old_jobs]
        for job_id in old:
            await self._ends.remove(job_id)
            self._final.pop(job_id, None)
        await self.show.forget([job.clip_id for job in old_jobs])
        open_ids = {name.partition(":")[2] for name in await self._jobs.names()}
        for job_id in open_ids & {job.job_id for job in ended}:
            await self._remove_entries(job_id)
        for job in await self.open_jobs():
            await self._end_if_lost(job, now)
        return old

    async def _end_if_lost(self, job: JobRecord, now: datetime) -> None:
        age = now - job.created_at
        queued = job.state is JobState.QUEUED
        if queued and age > NEVER_LAUNCHED_AFTER and await self.call_of(job.job_id) is None:
            lost: AnimeStudioError = UnavailableError(
                f"job {job.job_id} was never given to a container; submit it again"
            )
        elif age > GIVEN_UP_AFTER:
            lost = WorkerDiedError(
                f"job {job.job_id} has not ended in {GIVEN_UP_AFTER.days} days; submit it again"
            )
        else:
            return
        await self.end(job.failed(lost.problem(job.request_id), now))

    async def _end_with_its_call(self, record: JobRecord, call_id: str) -> JobRecord:
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
            entry = await self._ends.get(job_id)
            if entry is None:
                return None
            self._final[job_id] = JobRecord.model_validate(entry)
        if job_id in self._seen_open:
            self._seen_open.discard(job_id)
            await self._remove_entries(job_id)
        return self._final[job_id]

    async def _all_ended(self) -> Sequence[JobRecord]:
        """Return every final record; only those that are not cached are fetched."""
        stored = await self._ends.names()
        if not self._final:
            entries = await self._ends.items()
            self._final = {job_id: JobRecord.model_validate(entry) for job_id, entry in entries.items()}
        for gone in self._final.keys() - stored:
            del self._final[gone]
        await asyncio.gather(*(self._ended(job_id) for job_id in stored - self._final.keys()))
        return list(self._final.values())

    async def _waiting(self) -> Sequence[tuple[datetime, str]]:
        """Return when each waiting job was submitted, and its id, as last listed."""
        async with self._listing:
            if time.monotonic() - self._listed_at >= self._list_waiting_every_s:
                entries = await self._jobs.items()
                self._listed = [
                    (datetime.fromisoformat(entry["created_at"]), entry["job_id"])
                    for name, entry in entries.items()
                    if name.startswith(f"{Key.JOB}:") and Key.CLAIM.of(entry["job_id"]) not in entries
                ]
                self._listed_at = time.monotonic()
        return self._listed

    async def _read(self, job_id: str, *keys: Key) -> list[Any]:
        return await asyncio.gather(*(self._jobs.get(key.of(job_id)) for key in keys))

    async def _remove_entries(self, job_id: str) -> None:
        await asyncio.gather(*(self._jobs.remove(key.of(job_id)) for key in Key))


def _in_order(job: JobRecord) -> Ended:
    """Return the job with its sequence number: a Dict counts nothing, so that is the microsecond of its end."""
    return Ended(microseconds(_finished_at(job)), job)


def _name_of(idempotency: IdempotencyKey) -> str:
    return hashlib.sha256(idempotency.key.encode()).hexdigest()


def _finished_at(job: JobRecord) -> datetime:
    return job.finished_at or job.created_at
