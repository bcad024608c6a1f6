"""What the operator has decided about a show, in one `modal.Dict`. The entries are listed in `on_modal.dicts`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import modal

from anime_studio.core.jobs import JobRecord
from anime_studio.on_modal.dicts import Entries

MOST_HIDDEN: Final = 100
_PAUSED: Final = "paused"
_CLIP: Final = "clip:"
_SPENT: Final = "spent:"


class ModalShow:
    """A `ShowStore`. A decision reaches the other web containers within *read_every_s*."""

    def __init__(self, entries: modal.Dict, *, read_every_s: float) -> None:
        self._entries = Entries(entries)
        self._read_every_s = read_every_s
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._known: Mapping[str, Any] = {}

    async def paused(self) -> bool:
        """See `ShowStore.paused`."""
        return bool((await self._all()).get(_PAUSED, False))

    async def pause(self, *, paused: bool) -> None:
        """See `ShowStore.pause`."""
        await self._put(_PAUSED, paused)

    async def hide(self, job: JobRecord) -> None:
        """See `ShowStore.hide`."""
        await self._decide(job, hidden=True, now=datetime.now(UTC))

    async def show(self, job: JobRecord, now: datetime, *, even_hidden: bool) -> None:
        """See `ShowStore.show`."""
        hidden_by_operator = _CLIP + job.clip_id in await self._all()
        if await self.place(job) is None and (even_hidden or not hidden_by_operator):
            await self._decide(job, hidden=False, now=now)

    async def hidden(self, jobs: Sequence[JobRecord]) -> set[str]:
        """See `ShowStore.hidden`."""
        return {job.clip_id for job in jobs if await self.place(job) is None}

    async def hidden_on(self, channel: str) -> Sequence[str]:
        """See `ShowStore.hidden_on`."""
        decided = [
            (entry["at_us"], name.removeprefix(_CLIP))
            for name, entry in (await self._all()).items()
            if name.startswith(_CLIP) and entry["hidden"] and entry["channel"] == channel
        ]
        return [clip_id for _, clip_id in sorted(decided, reverse=True)[:MOST_HIDDEN]]

    async def place(self, job: JobRecord) -> int | None:
        """Return the microsecond at which the job's clip was shown; 0 if that is its end, None if it is hidden."""
        entry = (await self._all()).get(_CLIP + job.clip_id)
        if entry is None:
            return None if job.hold else 0
        return None if entry["hidden"] else entry["at_us"]

    async def spent_before(self) -> Mapping[str, float]:
        """See `ShowStore.spent_before`."""
        entries = await self._all()
        return {name.removeprefix(_SPENT): usd for name, usd in entries.items() if name.startswith(_SPENT)}

    async def note_spent(self, by_day: Mapping[str, float], *, oldest_day: str) -> None:
        """Keep what days have cost, for when their records are swept; forget the days before *oldest_day*.

        Modal deletes what nobody touches for seven days, so each day is written again. For the cleaner alone.
        """
        known = await self.spent_before()
        for day in known.keys() | by_day.keys():
            if day < oldest_day:
                await self._entries.remove(_SPENT + day)
            else:
                await self._put(_SPENT + day, max(known.get(day, 0.0), by_day.get(day, 0.0)))

    async def forget(self, clip_ids: Sequence[str]) -> None:
        """Forget what was decided about clips whose jobs were swept."""
        for clip_id in clip_ids:
            await self._entries.remove(_CLIP + clip_id)

    async def _decide(self, job: JobRecord, *, hidden: bool, now: datetime) -> None:
        entry = {"hidden": hidden, "channel": job.channel, "at_us": microseconds(now)}
        await self._put(_CLIP + job.clip_id, entry)

    async def _put(self, name: str, value: Any) -> None:
        await self._entries.put(name, value)
        self._read_at = -math.inf

    async def _all(self) -> Mapping[str, Any]:
        async with self._reading:
            if time.monotonic() - self._read_at >= self._read_every_s:
                self._known = await self._entries.items()
                self._read_at = time.monotonic()
        return self._known


def microseconds(moment: datetime) -> int:
    """Return the Unix time in microseconds."""
    return int(moment.timestamp() * 1_000_000)
