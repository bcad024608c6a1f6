"""Keeps one worker process alive beside the server, and knows how it is.

The worker's standard input carries its settings, then a byte for each new job, and its
end tells the worker that the server is gone; its standard output carries its status.
A worker that dies is started again, more slowly while it dies before it was ready.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self

import structlog
from pydantic import ValidationError

from anime_studio.core.errors import WorkerDiedError
from anime_studio.local.status import WorkerStatus
from anime_studio.settings import Settings
from anime_studio.telemetry import (
    WORKER_BLOCKED,
    WORKER_EXITED,
    WORKER_KILLED,
    WORKER_READIED,
    WORKER_SPAWNED,
)

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
HAND_BACK_S: Final = 20.0
"""After draining, how long a worker may take to its next report before it is killed."""
HOPELESS_STARTS: Final = 3

_log = structlog.get_logger(__name__)


class Supervisor:
    """One worker process at a time, from `async with` to its end."""

    def __init__(
        self,
        command: Sequence[str],
        settings: Settings,
        *,
        on_status: Callable[[WorkerStatus], None],
        after_kill: Callable[[], Awaitable[None]],
    ) -> None:
        """Take what is needed to start a worker.

        Args:
            command: Program and arguments.
            settings: Passed to the worker, less the signing keys, which it has no use for.
            on_status: Called with each status the worker tells.
            after_kill: Called when the worker had to be killed on purpose.
        """
        self.status = WorkerStatus(status="starting", detail="the worker process is being started")
        self._command = command
        self._settings = settings
        self._on_status = on_status
        self._after_kill = after_kill
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._starts_in_vain = 0
        self._was_ready = False

    async def __aenter__(self) -> Self:
        self._keeping = asyncio.create_task(self._keep(), name="worker-supervisor")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the worker: it may finish its job for `drain_s`, then hands it back at its next report."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(self._keeping), self._settings.drain_s + HAND_BACK_S)
        except TimeoutError:
            await self._kill()

    def poke(self) -> None:
        """Tell the worker that there is a job; one that is not up yet looks for itself."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(b"\n")

    async def _kill(self) -> None:
        if self._process is not None:
            _log.warning(WORKER_KILLED, pid=self._process.pid, reason="it did not stop in time")
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._keeping
        await self._after_kill()

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            await self._run_once()
            # Slower with each start that came to nothing; a job that kills its workers is ended by its attempts.
            delay_s = min(FIRST_DELAY_S * 2**self._starts_in_vain, LONGEST_DELAY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run_once(self) -> None:
        try:
            # Its own session: a Ctrl-C at the terminal is the server's to handle.
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True
            )
        except OSError as error:
            self._note_exit(f"could not be started: {error}")
            return
        self._process = process
        _log.info(WORKER_SPAWNED, pid=process.pid)
        if self._stopping.is_set():
            process.terminate()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._settings.model_dump_json(exclude={"signing_keys"}).encode() + b"\n")
        async for line in process.stdout:
            self._note_status(line)
        code = await process.wait()
        self._process = None
        self._note_exit(f"was killed by signal {-code}" if code < 0 else f"exited with code {code}")

    def _note_status(self, line: bytes) -> None:
        try:
            status = WorkerStatus.model_validate_json(line)
        except ValidationError:
            return  # not ours: something in the worker printed
        if status.status == "ready":
            self._starts_in_vain, self._was_ready = 0, True
            _log.info(WORKER_READIED, model_revision=status.model_revision)
        elif status.status == "unavailable" and status != self.status:
            _log.warning(WORKER_BLOCKED, code=status.code, detail=status.detail, command=status.command)
        self.status = status
        self._on_status(status)

    def _note_exit(self, how: str) -> None:
        if self._stopping.is_set():
            return
        _log.error(WORKER_EXITED, how=how)
        self._starts_in_vain += 0 if self._was_ready else 1
        self._was_ready = False
        if self.status.status == "unavailable" and self.status.code != WorkerDiedError.code:
            return  # it said why
        hopeless = self._starts_in_vain >= HOPELESS_STARTS
        self.status = WorkerStatus(
            status="unavailable" if hopeless else "starting",
            detail=f"the worker {how} and is being started again; its reason is in the server's log",
            code=WorkerDiedError.code if hopeless else None,
        )
