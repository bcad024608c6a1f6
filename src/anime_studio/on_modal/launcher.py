"""Starts and cancels the Modal call of a stored job, and asks how many calls wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import modal
import structlog

from anime_studio.core.errors import QueueFullError, StorageError, UnavailableError, WeightsMissingError
from anime_studio.core.jobs import Backlog, JobRecord
from anime_studio.core.readiness import not_ready
from anime_studio.on_modal.errors import CLIENT_ERRORS, client_errors
from anime_studio.on_modal.job_store import ModalJobs
from anime_studio.telemetry import LogEvent
from common.schemas import Readiness

_log = structlog.get_logger(__name__)

Method = modal.Function[..., Any, Any]


@dataclass(frozen=True, slots=True)
class TextMethods:
    """Of the text container: `encode` returns a clip's text, `warm` does nothing in a container that is ready."""

    encode: Method
    warm: Method


@dataclass(frozen=True, slots=True)
class Queue:
    """What Modal counts for one function: inputs that wait, inputs that run, containers."""

    waiting: int
    running: int
    containers: int


async def queue_of(method: Method) -> Queue:
    """Return the function's counts.

    Raises:
        UnavailableError: Modal cannot be asked.
    """
    with client_errors(UnavailableError, "Modal does not say how long the queue is"):
        stats = await method.get_current_stats.aio()
    return Queue(stats.backlog, stats.num_running_inputs, stats.num_total_runners)


async def backlog_of(method: Method) -> Backlog:
    """Return the function's queue as a job store reports it."""
    queue = await queue_of(method)
    return Backlog(queued=queue.waiting, running=queue.running)


class ModalLauncher:
    """A `Launcher` over methods of the deployed classes."""

    def __init__(
        self,
        jobs: ModalJobs,
        *,
        render: Method,
        warm: Method,
        text: TextMethods | None,
        require_weights: Callable[[], Awaitable[None]],
    ) -> None:
        """Store what the methods need.

        Args:
            jobs: Where a job's call is stored.
            render: Renders a job.
            warm: Does nothing, in a container that is ready.
            text: Of the text container; None where the GPU container has the text encoder.
            require_weights: Raises `WeightsMissingError` when the Volume lacks the recipe's weights.
        """
        self._jobs = jobs
        self._render = render
        self._warm = warm
        self._text = text
        self._require_weights = require_weights

    async def launch(self, job: JobRecord) -> None:
        """See `Launcher.launch`: the text starts first, and the render is told where it comes from."""
        if await self._jobs.call_of(job.job_id) is not None:
            return
        call_id = await self._spawn(job, await self._start_text(job))
        _log.info(LogEvent.JOB_LAUNCHED, job_id=job.job_id, modal_call_id=call_id)
        try:
            await self._jobs.note_call(job.job_id, call_id)
        except StorageError as error:  # the job runs all the same, and its claim has the id of its call
            _log.warning(
                LogEvent.JOB_CALL_UNKNOWN, job_id=job.job_id, modal_call_id=call_id, detail=error.detail
            )

    async def stop(self, job: JobRecord) -> None:
        """See `Launcher.stop`: removes a waiting call from Modal's queue, interrupts a running one."""
        call_id = await self._jobs.call_of(job.job_id)
        if call_id is None:
            return
        try:
            await modal.FunctionCall.from_id(call_id).cancel.aio(terminate_containers=False)
        except CLIENT_ERRORS as error:  # the mark in the store stops the job at its next step
            _log.warning(
                LogEvent.JOB_STOP_FAILED, job_id=job.job_id, modal_call_id=call_id, detail=str(error)
            )

    async def readiness(self) -> Readiness:
        """See `Launcher.readiness`; the first call of a function without containers starts one."""
        try:
            await self._require_weights()
            gpu_error = await self._jobs.gpu_error()
        except (WeightsMissingError, StorageError) as error:
            return not_ready(error)
        if gpu_error is not None:
            return not_ready(gpu_error)
        queue = await queue_of(self._render)
        if queue.containers == 0 and queue.waiting == 0:
            return Readiness(ready=True, status="asleep", detail="no container runs; the next job wakes one")
        if queue.containers == 0:
            return Readiness(ready=True, status="starting", detail="a container is being started")
        return Readiness(
            ready=True, status="ready", detail=f"containers: {queue.containers}, drawing: {queue.running}"
        )

    async def warm(self) -> None:
        """See `Launcher.warm`."""
        await self._require_weights()
        queue = await queue_of(self._render)
        if queue.containers == 0 and queue.waiting == 0:
            with client_errors(UnavailableError, "Modal did not take the call that warms a container"):
                await self._warm.spawn.aio()
                if self._text is not None:
                    await self._text.warm.spawn.aio()

    async def _start_text(self, job: JobRecord) -> str | None:
        if self._text is None:
            return None
        try:
            call = await self._text.encode.spawn.aio(job.spec.model_dump(mode="json"))
        except CLIENT_ERRORS as error:  # the render asks for it itself
            _log.warning(LogEvent.TEXT_NOT_STARTED, job_id=job.job_id, detail=str(error))
            return None
        return call.object_id

    async def _spawn(self, job: JobRecord, text_call_id: str | None) -> str:
        with client_errors(UnavailableError, f"Modal did not take job {job.job_id}"):
            try:
                call = await self._render.spawn.aio(job.model_dump(mode="json"), text_call_id)
            except modal.exception.ResourceExhaustedError as error:
                raise QueueFullError(f"Modal takes no more calls now: {error}", retry_after_s=30.0) from error
        return call.object_id
