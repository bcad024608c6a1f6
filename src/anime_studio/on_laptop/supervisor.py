"""Keeps one worker process running beside the server, and knows whether it is ready.

The worker's standard input carries its settings, then one byte for each new job; its end means
that the server is gone. The worker's standard output carries its readiness and its heartbeats, a line of JSON each.
A worker that dies is started again, after a longer delay each time it died before it was ready. A worker that is
silent for longer than its last heartbeat allowed is killed: it hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Self

import structlog
from pydantic import ValidationError

from anime_studio.core.errors import WorkerDiedError
from anime_studio.core.eta import UNMEASURED
from anime_studio.core.readiness import not_ready, starting
from anime_studio.on_laptop.heartbeat import LINE, Heartbeat
from anime_studio.settings import Settings
from anime_studio.telemetry import LogEvent
from common.schemas import Readiness

LONGEST_DELAY_S: Final = 30.0
TICK_S: Final = 0.5
"""Silence is counted in ticks of this length, so that a server that was itself stopped blames no worker for it."""
END_WITHIN_S: Final = 30.0
"""How long a worker that has closed its output may take to end."""
LONGEST_LINE_BYTES: Final = 256 * 1024
FAILED_STARTS_UNTIL_UNAVAILABLE: Final = 3
SIGNING_KEYS: Final = "ANIME_STUDIO_SIGNING_KEYS"
"""The worker signs nothing, so its environment does not have the keys."""
ALLOCATOR: Final = ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
"""How torch takes a GPU's memory: so the full decoder fits in 8 GiB, at the same speed (docs/performance.md)."""

_log = structlog.get_logger(__name__)


async def _do_nothing() -> None:
    pass


class Supervisor:
    """One worker process at a time, from `async with` to its end."""

    def __init__(
        self,
        command: Sequence[str],
        settings: Settings,
        *,
        before_start: Callable[[], Awaitable[None]] = _do_nothing,
        after_kill: Callable[[], Awaitable[None]] = _do_nothing,
        after_hang: Callable[[], Awaitable[None]] = _do_nothing,
        first_delay_s: float = 0.5,
        requeue_within_s: float = 20.0,
    ) -> None:
        """Take what is needed to start a worker.

        Args:
            command: Program and arguments.
            settings: Passed to the worker, less the signing keys, which it does not use.
            before_start: Called before each start of a worker.
            after_kill: Called when the worker had to be killed on purpose.
            after_hang: Called when a worker hung and was killed for it.
            first_delay_s: Before a worker that died is started again; doubled after each failed start.
            requeue_within_s: After `drain_s`, how long a worker may take to its next report before it is killed.
        """
        self.readiness = starting("the worker process is being started")
        self._command = command
        self._settings = settings
        self._before_start = before_start
        self._after_kill = after_kill
        self._after_hang = after_hang
        self._first_delay_s = first_delay_s
        self._stop_within_s = settings.drain_s + requeue_within_s
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._failed_starts = 0
        self._was_ready = False
        self._gave_a_reason = False
        self._heartbeat = self._loading = Heartbeat(limit_s=UNMEASURED * settings.hang_after_s)
        self._silent_ticks = 0

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name="worker-supervisor")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the worker: it may finish its job for `drain_s`, then requeues it at its next report."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(self._running), self._stop_within_s)
        except TimeoutError:
            await self._kill()

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def progress_age_s(self) -> float | None:
        """Seconds since the worker was last heard from, in whole ticks; None without a worker."""
        return None if self._process is None else self._silent_ticks * TICK_S

    def notify(self) -> None:
        """Tell the worker that there is a job; one that is not up yet looks when it is."""
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(b"\n")

    async def _kill(self) -> None:
        if self._process is not None:
            _log.warning(LogEvent.WORKER_KILLED, pid=self._process.pid, reason="it did not stop in time")
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._running
        await self._after_kill()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._run_worker()
            except Exception as error:  # noqa: BLE001  or no worker would ever run again
                _log.exception(LogEvent.SUPERVISOR_FAILED)
                self._note_exit(f"could not be watched ({type(error).__name__}: {error})")
            # A job that kills its workers does not slow the restarts: its attempts end it.
            delay_s = min(self._first_delay_s * 2**self._failed_starts, LONGEST_DELAY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run_worker(self) -> None:
        await self._before_start()
        try:
            # Its own session: a Ctrl-C at the terminal is the server's to handle.
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                start_new_session=True,
                limit=LONGEST_LINE_BYTES,
                env=_worker_environment(),
            )
        except OSError as error:
            self._note_exit(f"could not be started: {error}")
            return
        self._process = process
        _log.info(LogEvent.WORKER_SPAWNED, pid=process.pid)
        if self._stopping.is_set():
            process.terminate()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(
                self._settings.model_dump_json(exclude={"signing_keys", "operator_key"}).encode() + b"\n"
            )
            hung = await self._listen(process.stdout)
            if hung:
                process.kill()
            code = await asyncio.wait_for(process.wait(), END_WITHIN_S)
        finally:
            if process.returncode is None and not self._stopping.is_set():  # nobody watches it any more
                process.kill()
                await process.wait()
            self._process = None
        if hung:
            await self._after_hang()
            how = f"was silent for {self._heartbeat.limit_s:.0f} s and was killed"
        else:
            how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        self._note_exit(how)

    async def _listen(self, output: asyncio.StreamReader) -> bool:
        """Note what the worker writes until it ends (False) or is silent for too long (True)."""
        self._heartbeat, self._silent_ticks = self._loading, 0
        while self._silent_ticks * TICK_S <= self._heartbeat.limit_s:
            try:
                line = await asyncio.wait_for(output.readline(), TICK_S)
            except TimeoutError:
                self._silent_ticks += 1
                continue
            except ValueError:  # longer than `LONGEST_LINE_BYTES`: no line of ours
                continue
            if not line:
                return False
            self._note(line)
        _log.error(
            LogEvent.WORKER_HUNG,
            pid=self.worker_pid,
            stage=self._heartbeat.stage,
            silent_s=self._silent_ticks * TICK_S,
        )
        return True

    def _note(self, line: bytes) -> None:
        try:
            message = LINE.validate_json(line)
        except ValidationError:
            return  # printed by a library in the worker
        self._silent_ticks = 0
        if isinstance(message, Heartbeat):
            self._heartbeat = message
        elif not (message.status == "starting" and self._gave_a_reason):
            self._note_readiness(message)

    def _note_readiness(self, readiness: Readiness) -> None:
        self._gave_a_reason = False
        if readiness.ready:
            self._failed_starts, self._was_ready = 0, True
        elif readiness.status == "unavailable" and readiness != self.readiness:
            _log.warning(
                LogEvent.WORKER_BLOCKED,
                code=readiness.code,
                detail=readiness.detail,
                command=readiness.command,
            )
        self.readiness = readiness

    def _note_exit(self, how: str) -> None:
        if self._stopping.is_set():
            return
        _log.error(LogEvent.WORKER_EXITED, how=how)
        self._failed_starts += 0 if self._was_ready else 1
        self._was_ready = False
        if self.readiness.status == "unavailable" and self.readiness.code != WorkerDiedError.code:
            self._gave_a_reason = True  # it holds until the next worker is ready or gives another
            return
        detail = f"the worker {how} and is being started again; its reason is in the server's log"
        gave_up = self._failed_starts >= FAILED_STARTS_UNTIL_UNAVAILABLE
        self.readiness = not_ready(WorkerDiedError(detail)) if gave_up else starting(detail)


def _worker_environment() -> dict[str, str]:
    """Return this process's variables as the worker has them: without keys, with an allocator where none is set."""
    own = {name: value for name, value in os.environ.items() if name.upper() != SIGNING_KEYS}
    variable, value = ALLOCATOR
    return {variable: value} | own
