"""The text of the next job in the queue, encoded on a thread of the worker process while a job is drawn.

A GPU that draws leaves the CPU idle, where the text encoder is, so in a queue the text costs no time. The next job is looked
for between two steps, on the worker's own thread and connection. What fails here costs nothing: the job's own text says
what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, runtime_checkable

import structlog

from anime_studio.core.errors import AnimeStudioError
from anime_studio.core.jobs import JobRecord
from anime_studio.telemetry import LogEvent
from common.schemas import ClipSpec, Stage

_WHILE: Final = (Stage.DENOISE, Stage.DECODE)

_log = structlog.get_logger(__name__)


@runtime_checkable
class EncodesAhead(Protocol):
    """A renderer that keeps the text of a clip for later."""

    def encode_ahead(self, spec: ClipSpec) -> None:
        """Encode the text of *spec*, so that `render` finds it. Called on another thread than `render`."""


class TextAhead:
    """Encodes one text at a time, each job's once."""

    def __init__(self, renderer: EncodesAhead, next_queued: Callable[[], JobRecord | None]) -> None:
        """Store what `look` needs; *next_queued* returns the job that will be claimed next."""
        self._renderer = renderer
        self._next_queued = next_queued
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="text-ahead")
        self._encoding: Future[None] | None = None
        self._job_id = ""

    def look(self, stage: Stage) -> None:
        """Begin the next job's text if a clip is being drawn and nothing is being encoded."""
        if stage not in _WHILE or (self._encoding is not None and not self._encoding.done()):
            return
        try:
            job = self._next_queued()
        except AnimeStudioError:  # the store is busy; the next step looks again
            return
        if job is not None and job.job_id != self._job_id:
            self._job_id = job.job_id
            self._encoding = self._thread.submit(self._encode, job)

    def close(self) -> None:
        """Wait for the text that is being encoded: torch must not compute while the interpreter ends."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _encode(self, job: JobRecord) -> None:
        try:
            self._renderer.encode_ahead(job.spec)
        except Exception as error:  # noqa: BLE001  the job meets it itself
            _log.warning(
                LogEvent.TEXT_AHEAD_FAILED, job_id=job.job_id, detail=f"{type(error).__name__}: {error}"
            )
