"""The server process of a laptop: HTTP here, the worker process beside it, one folder for both.

Every acknowledged job is in SQLite before its answer leaves, so this process may die at
any moment: the next one finds all jobs, and the worker that lost its server hands its
job back and goes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import structlog
import uvicorn

from anime_studio import __version__
from anime_studio.core.errors import ConfigurationError, EngineError, UnavailableError
from anime_studio.core.jobs import JobRecord
from anime_studio.core.recipes import Recipe, get_recipe
from anime_studio.core.signing import UrlSigner
from anime_studio.core.studio import Policy, Studio
from anime_studio.local.data_dir import DataDir
from anime_studio.local.status import WorkerStatus
from anime_studio.local.supervisor import Supervisor
from anime_studio.settings import Settings
from anime_studio.storage.folder_clips import FolderClips
from anime_studio.storage.sqlite import prepare
from anime_studio.storage.sqlite_desk import SqliteDesk
from anime_studio.storage.sqlite_jobs import SqliteJobs
from anime_studio.telemetry import SERVER_STARTED, SERVER_STOPPED, configure_logging, log_job
from anime_studio.web.app import create_app
from anime_studio.web.options import WebOptions
from anime_studio.weights import locate
from common.schemas import Readiness

WORKER_COMMAND: Final = (sys.executable, "-m", "anime_studio.local.worker_process")
CLOSE_CONNECTIONS_S: Final = 10
"""How long answers may still take once the server stops; streams and waits are ended at once."""

_log = structlog.get_logger(__name__)


def serve(settings: Settings, *, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
    """Serve until SIGTERM or SIGINT, then stop in good order.

    Raises:
        ConfigurationError: A setting is wrong, the address is taken, or another server uses the folder.
        StorageError: The job database is damaged or the disk is full; the detail says what to do.
        UnavailableError: The server could not start; the log says why.
    """
    configure_logging(settings, component="server")
    data = DataDir(settings.data_dir)
    with data.for_server(), _bound(settings.host, settings.port) as listener:
        prepare(data.jobs)
        runtime = Runtime(settings, data, worker_command)
        app = create_app(runtime.open, _web_options(settings))
        # Our own handlers: uvicorn restores them and raises the signal again once it has stopped.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # `web` logs requests itself, by route: a link's query is a secret
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=CLOSE_CONNECTIONS_S,
        )
        server = _Server(runtime, config)
        server.run(sockets=[listener])
        if not server.started:
            raise UnavailableError("the server could not start; the log above says why")
    _log.info(SERVER_STOPPED)


class Runtime:
    """What one server opens: jobs, clips, the worker's supervisor, and the studio over them."""

    def __init__(self, settings: Settings, data: DataDir, worker_command: Sequence[str]) -> None:
        self._settings = settings
        self._data = data
        self._worker_command = worker_command
        self._recipe = get_recipe(settings.recipe)
        self._signer = UrlSigner(_signing_keys(settings, data))
        self._jobs: SqliteJobs | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Studio]:
        """Open the studio; closing it stops the worker in good order."""
        settings = self._settings

        def on_status(status: WorkerStatus) -> None:
            studio.model_revision = status.model_revision or studio.model_revision

        supervisor = Supervisor(
            self._worker_command, settings, on_status=on_status, after_kill=self._hand_back_jobs
        )
        async with SqliteJobs(self._data.jobs) as jobs:
            self._jobs = jobs
            studio = Studio(
                recipe=self._recipe,
                model_revision=_revision(self._recipe, settings),
                jobs=jobs,
                launcher=LocalLauncher(supervisor, log_prompts=settings.log_prompts),
                clips=FolderClips(self._data.clips),
                signer=self._signer,
                policy=_policy(settings),
            )
            async with supervisor:
                yield studio

    def end_streams(self) -> None:
        """End event streams and waits: their callers get what there is."""
        if self._jobs is not None:
            self._jobs.end_streams()

    async def _hand_back_jobs(self) -> None:
        def hand_back() -> None:
            desk = SqliteDesk(self._data.jobs, max_attempts=self._settings.max_attempts)
            desk.hand_back_running()
            desk.close()

        await asyncio.to_thread(hand_back)


class LocalLauncher:
    """A `Launcher` over the supervised worker, which finds kept jobs by itself."""

    def __init__(self, supervisor: Supervisor, *, log_prompts: bool) -> None:
        self._supervisor = supervisor
        self._log_prompts = log_prompts

    async def launch(self, job: JobRecord) -> None:  # noqa: ARG002
        """See `Launcher.launch`."""
        self._supervisor.poke()

    async def stop(self, job: JobRecord) -> None:
        """See `Launcher.stop`: a running job's worker sees the mark; one that never ran is told here."""
        if job.state.final:
            log_job(job, log_prompts=self._log_prompts)

    async def readiness(self) -> Readiness:
        """See `Launcher.readiness`."""
        status = self._supervisor.status
        return Readiness(
            ready=status.status == "ready",
            status=status.status,
            detail=status.detail,
            code=status.code,
            command=status.command,
        )

    async def warm(self) -> None:
        """See `Launcher.warm`: a worker is always kept."""


class _Server(uvicorn.Server):
    """Says when it is up, and ends streams when it goes down."""

    def __init__(self, runtime: Runtime, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._runtime = runtime

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce the address once it answers."""
        await super().startup(sockets)
        if self.started and sockets:
            _log.info(SERVER_STARTED, url=_url(sockets[0]), version=__version__)

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
    # Without it each answer on a kept connection waits some 40 ms for the other side's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _web_options(settings: Settings) -> WebOptions:
    return WebOptions(
        recipe=settings.recipe,
        version=__version__,
        base_url=settings.base_url,
        generate_wait_s=settings.generate_wait_s,
    )


def _policy(settings: Settings) -> Policy:
    return Policy(
        max_queued_jobs=settings.max_queued_jobs,
        url_ttl=timedelta(seconds=settings.url_ttl_s),
        compose_prompts=settings.compose_prompts,
        budget_usd_per_clip=settings.budget_usd_per_clip,
    )


def _signing_keys(settings: Settings, data: DataDir) -> Sequence[str]:
    if settings.signing_keys is None:
        return [data.signing_key()]
    return [key.strip() for key in settings.signing_keys.get_secret_value().split(",")]


def _revision(recipe: Recipe, settings: Settings) -> str:
    try:
        return locate(recipe, settings.models_dir).revision
    except EngineError:
        return recipe.revision  # missing or damaged: the worker says so, and the true one once all is well
