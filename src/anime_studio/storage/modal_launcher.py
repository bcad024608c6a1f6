"""Gets a kept job drawn on Modal: `spawn`, cancel, and how the function stands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import modal
import structlog
from grpclib.exceptions import GRPCError, StreamTerminatedError

from anime_studio.core.errors import QueueFullError, StorageError, UnavailableError, WeightsMissingError
from anime_studio.core.jobs import Backlog, JobRecord
from anime_studio.storage.modal_jobs import ModalJobs
from common.schemas import Readiness

JOB_LAUNCHED: Final = "job.launched"
JOB_CALL_UNKNOWN: Final = "job.call_unknown"
JOB_STOP_FAILED: Final = "job.stop_failed"
_CLIENT_ERRORS: Final = (modal.exception.Error, GRPCError, StreamTerminatedError, OSError, TimeoutError)

_log = structlog.get_logger(__name__)

Method = modal.Function[..., Any, Any]


@dataclass(frozen=True, slots=True)
class Queue:
    """How Modal counts a function: inputs that wait and run, and containers."""

    waiting: int
    running: int
    containers: int


async def queue_of(method: Method) -> Queue:
    """Return the function's counts.

    Raises:
        UnavailableError: Modal cannot be asked.
    """
    try:
        stats = await method.get_current_stats.aio()
    except _CLIENT_ERRORS as error:
        raise UnavailableError(f"Modal does not say how the queue is: {error}; try again") from error
    return Queue(stats.backlog, stats.num_running_inputs, stats.num_total_runners)


async def backlog_of(method: Method) -> Backlog:
    """Return the function's queue as a job store tells it."""
    queue = await queue_of(method)
    return Backlog(queued=queue.waiting, running=queue.running)


class ModalLauncher:
    """A `Launcher` over two methods of the deployed class."""

    def __init__(
        self,
        jobs: ModalJobs,
        *,
        render: Method,
        warm: Method,
        require_weights: Callable[[], Awaitable[None]],
    ) -> None:
        """Take what is needed to call.

        Args:
            jobs: Where a job's call is noted.
            render: Draws a job.
            warm: Does nothing, in a container that is ready.
            require_weights: Raises `WeightsMissingError` when the Volume lacks the recipe's weights.
        """
        self._jobs = jobs
        self._render = render
        self._warm = warm
        self._require_weights = require_weights

    async def launch(self, job: JobRecord) -> None:
        """See `Launcher.launch`."""
        if await self._jobs.call_of(job.job_id) is not None:
            return
        call_id = await self._spawn(job)
        _log.info(JOB_LAUNCHED, job_id=job.job_id, modal_call_id=call_id)
        try:
            await self._jobs.note_call(job.job_id, call_id)
        except StorageError as error:  # the job runs all the same, and its container claims it
            _log.warning(JOB_CALL_UNKNOWN, job_id=job.job_id, modal_call_id=call_id, detail=error.detail)

    async def stop(self, job: JobRecord) -> None:
        """See `Launcher.stop`: takes a waiting input out of Modal's queue, interrupts a running one."""
        call_id = await self._jobs.call_of(job.job_id)
        if call_id is None:
            return
        try:
            await modal.FunctionCall.from_id(call_id).cancel.aio(terminate_containers=False)
        except _CLIENT_ERRORS as error:  # the mark in the store stops it at its next step
            _log.warning(JOB_STOP_FAILED, job_id=job.job_id, modal_call_id=call_id, detail=str(error))

    async def readiness(self) -> Readiness:
        """See `Launcher.readiness`; a function without containers sleeps, and wakes by itself."""
        try:
            await self._require_weights()
        except WeightsMissingError as missing:
            return Readiness(
                ready=False,
                status="unavailable",
                detail=missing.detail,
                code=missing.code,
                command=missing.command,
            )
        except StorageError as error:
            return Readiness(ready=False, status="unavailable", detail=error.detail, code=error.code)
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
            try:
                await self._warm.spawn.aio()
            except _CLIENT_ERRORS as error:
                raise UnavailableError(f"Modal did not take the call: {error}; try again") from error

    async def _spawn(self, job: JobRecord) -> str:
        try:
            call = await self._render.spawn.aio(job.model_dump(mode="json"))
        except modal.exception.ResourceExhaustedError as error:
            raise QueueFullError(f"Modal takes no more calls now: {error}", retry_after_s=30.0) from error
        except _CLIENT_ERRORS as error:
            raise UnavailableError(f"Modal did not take job {job.job_id}: {error}; try again") from error
        return call.object_id
