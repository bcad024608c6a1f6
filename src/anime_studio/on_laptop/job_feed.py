"""New versions of jobs, published to every follower in this process.

The worker process writes most versions, so this process polls: one task asks SQLite every
30 ms for the events after the last one it saw and publishes each to the followers of its job.
Two hundred followers cost the same query as one; without followers there is no query.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from anime_studio.core.errors import StorageError
from anime_studio.core.jobs import JobRecord
from anime_studio.telemetry import LogEvent

POLL_EVERY_S: Final = 0.03
RETRY_AFTER_S: Final = 1.0
"""After an error of the database."""

Inbox = asyncio.Queue[JobRecord | None]
"""A follower's new versions; None means that the feed has closed."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of `events`: one version of one job, not yet parsed."""

    event_id: int
    job_id: str
    record: str


class JobFeed:
    """Polls for new events while there are followers."""

    def __init__(
        self,
        newest_id: Callable[[], Awaitable[int]],
        events_after: Callable[[int], Awaitable[Sequence[Event]]],
    ) -> None:
        self._newest_id = newest_id
        self._events_after = events_after
        self._inboxes: defaultdict[str, set[Inbox]] = defaultdict(set)
        self._starting = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None
        self._seen = 0
        self._closed = False

    @property
    def followers(self) -> int:
        """How many follow a job now."""
        return sum(map(len, self._inboxes.values()))

    @asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[Inbox]:
        """Collect each version of the job that is stored from now on.

        Raises:
            StorageError: The database cannot be read.
        """
        inbox: Inbox = asyncio.Queue()
        self._inboxes[job_id].add(inbox)
        try:
            await self._start()
            if self._closed:
                inbox.put_nowait(None)
            yield inbox
        finally:
            self._inboxes[job_id].discard(inbox)
            if not self._inboxes[job_id]:
                del self._inboxes[job_id]

    def close(self) -> None:
        """End every follower's stream, now and from now on."""
        self._closed = True
        self._end_streams()

    async def aclose(self) -> None:
        """Close, and stop polling."""
        self.close()
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    async def _start(self) -> None:
        async with self._starting:
            if self._polling is None or self._polling.done():
                self._seen = await self._newest_id()
                self._polling = asyncio.create_task(self._poll(), name="job-feed")

    async def _poll(self) -> None:
        try:
            while self._inboxes:
                await asyncio.sleep(POLL_EVERY_S)
                try:
                    events = await self._events_after(self._seen)
                except StorageError as error:
                    _log.warning(LogEvent.FEED_INTERRUPTED, detail=error.detail)
                    await asyncio.sleep(RETRY_AFTER_S)
                    continue
                self._publish(events)
        finally:  # a follower must never wait for a task that has ended
            self._end_streams()

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            self._seen = event.event_id
            inboxes = self._inboxes.get(event.job_id)
            if inboxes:
                job = JobRecord.model_validate_json(event.record)
                for inbox in inboxes:
                    inbox.put_nowait(job)

    def _end_streams(self) -> None:
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.put_nowait(None)
