"""The server process of a laptop: HTTP here, the worker process beside it, one folder for both.

Every acknowledged job is in SQLite before its answer leaves, so this process may die at
any moment: the next one finds all jobs, and a worker that has lost its server requeues its
job and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing
from typing import Final

import structlog
import uvicorn

from anime_studio import __version__
from anime_studio.core.clock import SystemClock
from anime_studio.core.errors import ConfigurationError, StorageError, UnavailableError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.readiness import not_ready
from anime_studio.core.recipes import require_decoder
from anime_studio.core.signing import UrlSigner
from anime_studio.core.studio import Studio
from anime_studio.on_laptop.clips import FolderClips
from anime_studio.on_laptop.connections import BoundedConfig, max_connections, raise_descriptor_limit
from anime_studio.on_laptop.data_dir import DataDir
from anime_studio.on_laptop.database import prepare
from anime_studio.on_laptop.deadlines import Deadlines
from anime_studio.on_laptop.job_store import SqliteJobs
from anime_studio.on_laptop.offers import offered
from anime_studio.on_laptop.supervisor import Supervisor
from anime_studio.on_laptop.worker_store import SqliteWorkerStore
from anime_studio.settings import Settings
from anime_studio.telemetry import LogEvent, configure_logging, log_job
from anime_studio.web.app import create_app
from common.schemas import Readiness

WORKER_COMMAND: Final = (sys.executable, "-m", "anime_studio.on_laptop.worker_process")
CLOSE_CONNECTIONS_S: Final = 10
"""How long answers may still take once the server stops; streams and waits end at once."""
STALE_WORKER_MAY_REQUEUE_WITHIN_S: Final = 20.0
"""After `drain_s`: how long a worker that lost its server may take to its next report."""

_log = structlog.get_logger(__name__)


def serve(settings: Settings, *, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
    """Serve until SIGTERM or SIGINT, then stop in good order.

    Raises:
        ConfigurationError: A setting is wrong, the address is taken, or another server uses the folder.
        StorageError: The job database is damaged or the disk is full; the detail says what to do.
        UnavailableError: The server could not start; the log says why.
    """
    configure_logging(settings, component="server")
    os.umask(0o077)  # jobs hold prompts: what this process and its worker write is their owner's alone
    data = DataDir(settings.data_dir)
    with data.for_server(), _bound(settings.host, settings.port) as listener:
        prepare(data.jobs)
        runtime = Runtime(settings, data, worker_command)
        app = create_app(runtime.open, settings.web_options())
        connections = max_connections(raise_descriptor_limit())
        config = BoundedConfig(
            app,
            max_connections=connections,
            backlog=min(2048, connections),  # asyncio accepts so many at once, before any is counted
            log_config=None,
            access_log=False,  # `web` logs requests itself, by route: a link's query is a secret
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=CLOSE_CONNECTIONS_S,
        )
        server = _Server(runtime, config)
        # Our own handlers: uvicorn restores them and raises the signal again once it has stopped. A signal that comes
        # before uvicorn has set its own must stop the server too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        server.run(sockets=[listener])
        if not server.started:
            raise UnavailableError("the server could not start; the log above says why")
    _log.info(LogEvent.SERVER_STOPPED)


class Runtime:
    """What one server opens: jobs, clips, the worker's supervisor, and the studio over them."""

    def __init__(self, settings: Settings, data: DataDir, worker_command: Sequence[str]) -> None:
        self._settings = settings
        self._data = data
        self._worker_command = worker_command
        self._recipe = offered(settings)
        require_decoder(self._recipe, settings.decoder)
        self._signer = UrlSigner(_signing_keys(settings, data))
        self._jobs = SqliteJobs(data.jobs)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Studio]:
        """Open the studio; closing it stops the worker in good order."""
        settings = self._settings
        supervisor = Supervisor(
            self._worker_command,
            settings,
            before_start=self._end_stale_worker,
            after_kill=self._requeue_jobs,
            after_hang=self._end_or_retry_hung_jobs,
        )
        deadlines = Deadlines(self._jobs, SystemClock(), log_prompts=settings.log_prompts)
        async with self._jobs, deadlines:
            studio = Studio(
                recipe=self._recipe,
                jobs=self._jobs,
                launcher=LocalLauncher(supervisor, self._jobs, deadlines, log_prompts=settings.log_prompts),
                clips=FolderClips(self._data.clips),
                signer=self._signer,
                policy=settings.policy(),
            )
            async with supervisor:
                yield studio

    def end_streams(self) -> None:
        """End event streams and waits: their callers get the job as it is."""
        self._jobs.feed.close()

    async def _end_stale_worker(self) -> None:
        after_s = self._settings.drain_s + STALE_WORKER_MAY_REQUEUE_WITHIN_S
        process_id = await asyncio.to_thread(self._data.end_stale_worker, after_s)
        if process_id is not None:
            _log.warning(LogEvent.WORKER_KILLED, pid=process_id, reason="it outlived its server")
            await self._requeue_jobs()

    async def _requeue_jobs(self) -> None:
        with self._worker_store() as store:
            await asyncio.to_thread(store.requeue_running)

    async def _end_or_retry_hung_jobs(self) -> None:
        with self._worker_store() as store:
            for job in await asyncio.to_thread(store.end_or_retry_hung, SystemClock().now()):
                log_job(job, log_prompts=self._settings.log_prompts)

    def _worker_store(self) -> AbstractContextManager[SqliteWorkerStore]:
        """The store as a worker uses it: for when no worker lives."""
        return closing(SqliteWorkerStore(self._data.jobs, max_attempts=self._settings.max_attempts))


class LocalLauncher:
    """A `Launcher` over the supervised worker, which finds stored jobs by itself."""

    def __init__(
        self, supervisor: Supervisor, jobs: SqliteJobs, deadlines: Deadlines, *, log_prompts: bool
    ) -> None:
        self._supervisor = supervisor
        self._deadlines = deadlines
        self._jobs = jobs
        self._log_prompts = log_prompts

    async def launch(self, job: JobRecord) -> None:
        """See `Launcher.launch`."""
        self._deadlines.note(job)
        self._supervisor.notify()

    async def stop(self, job: JobRecord) -> None:
        """See `Launcher.stop`: the worker of a running job sees the mark; a job that never ran is logged here."""
        if job.state.final:
            log_job(job, log_prompts=self._log_prompts)

    async def readiness(self) -> Readiness:
        """See `Launcher.readiness`."""
        try:
            self._jobs.require_its_files()
        except StorageError as error:
            return not_ready(error)
        age_s = self._supervisor.progress_age_s
        return self._supervisor.readiness.model_copy(update={"progress_age_s": age_s})

    async def warm(self) -> None:
        """See `Launcher.warm`: a worker always runs."""


class _Server(uvicorn.Server):
    """Logs when it is up, and ends streams when it goes down."""

    def __init__(self, runtime: Runtime, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._runtime = runtime

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce the address once it answers."""
        await super().startup(sockets)
        if self.started and sockets:
            _log.info(LogEvent.SERVER_STARTED, url=_url(sockets[0]), version=__version__)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would wait for a job, so that connections can close."""
        self._runtime.end_streams()
        await super().shutdown(sockets)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port (0 takes a free one)"
        ) from error
    # Accepted sockets inherit it; asyncio sets it only where `proto` says TCP, which create_server leaves 0.
    # Without it each answer on a persistent connection waits some 40 ms for the other side's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _signing_keys(settings: Settings, data: DataDir) -> Sequence[str]:
    if settings.signing_keys is None:
        return [data.signing_key()]
    return [key.strip() for key in settings.signing_keys.get_secret_value().split(",")]
