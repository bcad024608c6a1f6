"""What a job leaves in `modal.Dict`, under which key, and who may write it.

A Dict has no transactions, so each key has one writer, and what may be decided by either side is decided by
whoever creates its key first (`put(skip_if_exists=True)`, `modal/dict.py`; atomic on the server).

    jobs    job:<job_id>      the record as submitted                       web, once
            call:<job_id>     id of the Modal call that draws it            web, once
            cancel:<job_id>   the problem of its owner's cancel             web
            claim:<job_id>    id of the call that took it                   GPU, first wins
            run:<job_id>      its newest version while it runs              GPU, the call that took it
    ended   <job_id>          its final record                              either, first wins; never changes
    keys    <sha256 of key>   Idempotency-Key -> job                        web, first wins

The web container that sees a job's end removes its keys from `jobs`, the cleaner the rest, so `jobs` holds
what is unfinished. Entries vanish after seven idle days on their own (guide, "Dicts").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import modal
from grpclib.exceptions import GRPCError, StreamTerminatedError

from anime_studio.core.errors import StorageError
from anime_studio.core.jobs import JobRecord


class Key(StrEnum):
    """What an entry of `jobs` is."""

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
    """The three Dicts; handles that reach Modal on first use."""

    jobs: modal.Dict
    ended: modal.Dict
    keys: modal.Dict


def plain(record: JobRecord) -> dict[str, Any]:
    """Return the record as JSON values: readable by any later version, and by people."""
    return record.model_dump(mode="json")


@contextmanager
def dict_errors(job_id: str) -> Iterator[None]:
    """Turn what the client raises into our error.

    Raises:
        StorageError: The entry could not be read or written; the client itself retried first.
    """
    try:
        yield
    except (modal.exception.Error, GRPCError, StreamTerminatedError, OSError, TimeoutError) as error:
        raise StorageError(
            f"the record of job {job_id} cannot be reached on Modal ({type(error).__name__}: {error}); try again"
        ) from error
