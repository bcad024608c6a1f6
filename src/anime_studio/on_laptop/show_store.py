"""What the operator has decided about a show, in the database of its jobs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar

from anime_studio.core.jobs import JobRecord
from anime_studio.on_laptop.database import writing

MOST_HIDDEN: Final = 100
_PAUSED: Final = "paused"
_HELD, _HIDDEN = 1, 2

_T = TypeVar("_T")


class _Database(Protocol):
    async def read_with(self, use: Callable[[sqlite3.Connection], _T]) -> _T: ...

    def write_with(self, use: Callable[[sqlite3.Connection], _T]) -> Awaitable[_T]: ...


class SqliteShow:
    """A `ShowStore`."""

    def __init__(self, database: _Database) -> None:
        self._database = database

    async def paused(self) -> bool:
        """See `ShowStore.paused`."""
        sql = "SELECT value FROM show WHERE name = ?"
        row = await self._database.read_with(
            lambda connection: connection.execute(sql, (_PAUSED,)).fetchone()
        )
        return row is not None and bool(json.loads(row[0]))

    async def pause(self, *, paused: bool) -> None:
        """See `ShowStore.pause`."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO show VALUES (?, ?)", (_PAUSED, json.dumps(paused)))

        await self._database.write_with(write)

    async def hide(self, job: JobRecord) -> None:
        """See `ShowStore.hide`."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE jobs SET hidden = ? WHERE job_id = ?", (_HIDDEN, job.job_id))

        await self._database.write_with(write)

    async def show(self, job: JobRecord, now: datetime, *, even_hidden: bool) -> None:  # noqa: ARG002  SQLite counts
        """See `ShowStore.show`: the clip gets the next number of all events, and no event."""
        most = _HIDDEN if even_hidden else _HELD

        def write(connection: sqlite3.Connection) -> None:
            with writing(connection):
                connection.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'events'")
                connection.execute(
                    "UPDATE jobs SET hidden = 0, shown_seq = (SELECT seq FROM sqlite_sequence WHERE name = 'events') "
                    "WHERE job_id = ? AND hidden BETWEEN 1 AND ?",
                    (job.job_id, most),
                )

        await self._database.write_with(write)

    async def hidden(self, jobs: Sequence[JobRecord]) -> set[str]:
        """See `ShowStore.hidden`."""
        marks = ",".join("?" * len(jobs))
        sql = f"SELECT clip_id FROM jobs WHERE hidden > 0 AND clip_id IN ({marks})"  # noqa: S608  only question marks
        return set(await self._clip_ids(sql, *(job.clip_id for job in jobs)))

    async def hidden_on(self, channel: str) -> Sequence[str]:
        """See `ShowStore.hidden_on`."""
        sql = "SELECT clip_id FROM jobs WHERE channel = ? AND hidden > 0 AND shown_seq > 0 ORDER BY shown_seq DESC LIMIT ?"
        return await self._clip_ids(sql, channel, MOST_HIDDEN)

    async def spent_before(self) -> Mapping[str, float]:
        """See `ShowStore.spent_before`: nobody bills for a machine of one's own."""
        return {}

    async def _clip_ids(self, sql: str, *parameters: object) -> list[str]:
        rows = await self._database.read_with(
            lambda connection: connection.execute(sql, parameters).fetchall()
        )
        return [clip_id for (clip_id,) in rows]
