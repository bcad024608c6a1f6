"""Which entries a job has in `modal.Dict`, and which side writes each entry.

A Dict has no transactions, so each entry has one writer. Where both sides may decide, the first to create the entry
decides (`put(skip_if_exists=True)`, `modal/dict.py`; atomic on the server).

    Dict    entry             value                                         writer
    jobs    job:<job_id>      the record as submitted                       web, once
            call:<job_id>     id of the Modal call that renders the job     web, once
            cancel:<job_id>   the problem that its owner's cancel gives     web
            claim:<job_id>    id of the call that claimed the job           GPU, the first call
            run:<job_id>      the newest version while the job runs         GPU, the call that claimed the job
            gpu-failures      when GPUs failed their check lately, and why     GPU, each container
    ended   <job_id>          the final record                              either, the first; it never changes
    keys    <sha256 of key>   Idempotency-Key -> job                        web, the first
    show    paused            whether new jobs are refused                  web
            clip:<clip_id>    whether the clip is hidden, its channel, and when that was said    web
            spent:<day>       US dollars of that day, UTC                   the cleaner

A web container that reads a job's final record removes the job's entries from `jobs`, and the hourly cleaner removes
those that are left, so `jobs` holds unfinished jobs. Modal deletes entries after seven idle days (guide, "Dicts").
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import modal

from anime_studio.core.errors import StorageError
from anime_studio.core.jobs import JobRecord
from anime_studio.on_modal.errors import client_errors


class Key(StrEnum):
    """The kinds of entries in `jobs`."""

    JOB = "job"
    CALL = "call"
    CANCEL = "cancel"
    CLAIM = "claim"
    RUN = "run"

    def of(self, job_id: str) -> str:
        """Return the entry's name."""
        return f"{self.value}:{job_id}"


@dataclass(frozen=True, slots=True)
class JobDicts:
    """The four Dicts. A handle reaches Modal when it is first used."""

    jobs: modal.Dict
    ended: modal.Dict
    keys: modal.Dict
    show: modal.Dict


def to_json(record: JobRecord) -> dict[str, Any]:
    """Return the record as JSON values, which any later version can read, and people too."""
    return record.model_dump(mode="json")


class Entries:
    """The entries of one Dict, for asyncio code.

    Every method raises `StorageError` when Modal cannot be reached. The detail names the entry, and the name of an
    entry holds the job's id.
    """

    def __init__(self, entries: modal.Dict) -> None:
        self._dict = entries

    async def get(self, name: str) -> Any:
        """Return the entry's value, or None when there is no such entry."""
        with self._errors(f"entry {name!r}"):
            return await self._dict.get.aio(name)

    async def put(self, name: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        """Write the entry; return False if it was there already and *skip_if_exists* left it as it was."""
        with self._errors(f"entry {name!r}"):
            written: bool = await self._dict.put.aio(name, value, skip_if_exists=skip_if_exists)
            return written

    async def remove(self, name: str) -> None:
        """Remove the entry, if it is there."""
        with self._errors(f"entry {name!r}"):
            await self._dict.pop.aio(name, None)

    async def names(self) -> set[str]:
        """Return the names of all entries."""
        with self._errors("the list of entries"):
            return {name async for name in self._dict.keys.aio()}

    async def items(self) -> dict[str, Any]:
        """Return all entries, value by name."""
        with self._errors("the list of entries"):
            return {name: value async for name, value in self._dict.items.aio()}

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return client_errors(
            StorageError, f"{what} of Modal's Dict {self._dict.name} cannot be read or written"
        )
